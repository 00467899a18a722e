"""Do the encoder's embeddings tell the degradations apart, whatever the picture shows?"""

import re
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.manifold import TSNE
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, silhouette_score
from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from airnet_basicsr.errors import InputError

NEIGHBOURS = 5
# What NumPy and the standard library raise over a file that is no whole .npz.
_DAMAGED = (
    OSError,
    ValueError,
    KeyError,
    EOFError,
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
    tokenize.TokenError,
)


def photograph(image: str) -> str:
    """What a degraded image shows, by its name alone, for tests that did not record it (``scene``).

    ``0001_0.8_0.1`` (RESIDE), in an LMDB ``0001_0p8_0p1``, is one of the photograph ``0001``.
    """
    return re.sub(r'(_\d+([.p]\d+)?){2}$', '', image)


def understand(folder: Path) -> dict[str, Any]:
    """Measures of how well the embeddings of a test's images tell its datasets (degradations) apart.

    Each image's degradation is guessed from its nearest neighbours among the images of *other photographs* (by the name
    of the clean image): that two versions of one picture resemble each other cannot help. Features are brought to mean
    0 and deviation 1.

    Returns:
        ``reason`` (why there is nothing to say, else None) and, without one, ``datasets``, ``images``, ``photographs``,
        ``shared`` (photographs that several datasets have), ``left_out`` (images whose embedding is not finite),
        ``neighbours``, ``accuracy``, ``balanced_accuracy`` (mean over the datasets), ``chance`` (share of the largest
        dataset), ``silhouette`` (-1 to 1), ``confusion`` (rows: true, columns: guessed) and ``points``: for each image
        its place in a t-SNE map, dataset and name.

    Raises:
        InputError: ``embeddings.npz`` is damaged.
    """
    path = folder / 'embeddings.npz'
    if not path.is_file():
        return {'reason': 'its network has no degradation encoder, or the test ended before its first dataset did'}
    try:
        with np.load(path) as file:
            embedding, dataset, image = (file[key] for key in ('embedding', 'dataset', 'image'))
            scene = file['scene'] if 'scene' in file else np.array([photograph(name) for name in image.tolist()])
    except _DAMAGED as error:
        raise InputError(f'{path} cannot be read ({error}): test again') from error
    if embedding.ndim != 2 or not embedding.shape[:1] == dataset.shape == image.shape == scene.shape:
        raise InputError(f'{path}: embeddings, datasets and images differ in number: test again')
    if embedding.dtype.kind != 'f':
        raise InputError(f'{path}: its embeddings are no numbers: test again')
    finite = np.isfinite(embedding).all(1)
    one_dataset = len(set(dataset.tolist())) < 2
    embedding, dataset = embedding[finite].astype(float), dataset[finite]
    image, photographs = image[finite], scene[finite]
    names = list(dict.fromkeys(dataset.tolist()))
    if one_dataset:
        return {'reason': 'the test has one dataset only, and telling degradations apart takes two'}
    if len(names) < 2:
        return {'reason': 'fewer than two of its datasets have embeddings that are finite (not nan or inf)'}
    smallest = min(np.sum(dataset == name) for name in names)
    if len(set(photographs)) < 2 or smallest < 2:
        return {'reason': 'it takes at least two photographs, and two images of each dataset'}
    if (embedding == embedding[0]).all():
        # scikit-learn's t-SNE divides by the spread, and a map of nan ends the process.
        return {'reason': 'its embeddings are the same for all images'}
    # Of other photographs there may be few images, where most show one.
    fewest = len(photographs) - np.unique(photographs, return_counts=True)[1].max()
    neighbours = int(min(NEIGHBOURS, smallest - 1, fewest))
    scaled = StandardScaler().fit_transform(embedding)
    classify = make_pipeline(StandardScaler(), KNeighborsClassifier(neighbours))
    guessed = cross_val_predict(classify, embedding, dataset, groups=photographs, cv=LeaveOneGroupOut())
    perplexity = min(30, (len(scaled) - 1) / 3)
    places = TSNE(perplexity=perplexity, init='pca', random_state=0).fit_transform(scaled)
    having = [len(set(dataset[photographs == name])) for name in sorted(set(photographs.tolist()))]
    return {
        'reason': None,
        'datasets': names,
        'images': len(dataset),
        'photographs': len(having),
        'shared': sum(number > 1 for number in having),
        'left_out': int(np.sum(~finite)),
        'neighbours': neighbours,
        'accuracy': float(np.mean(guessed == dataset)),
        'balanced_accuracy': float(balanced_accuracy_score(dataset, guessed)),
        'chance': float(max(np.mean(dataset == name) for name in names)),
        'silhouette': float(silhouette_score(scaled, dataset)),
        'confusion': confusion_matrix(dataset, guessed, labels=names).tolist(),
        'points': [
            {'x': float(x), 'y': float(y), 'dataset': of, 'image': name}
            for (x, y), of, name in zip(places, dataset.tolist(), image.tolist(), strict=True)
        ],
    }
