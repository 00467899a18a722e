"""Whether embeddings tell degradations apart, without help from what the pictures show."""

import numpy as np
import pytest

from airnet_basicsr.errors import InputError
from airnet_basicsr.report.understanding import photograph, understand


def write(folder, embedding, datasets, images):
    np.savez(folder / 'embeddings.npz', embedding=np.float32(embedding), dataset=datasets, image=images)
    return understand(folder)


def made(content, degradation, photographs=12):
    """Embeddings of photographs under two degradations, for the weights of what they show and what they suffer from."""
    rng = np.random.RandomState(0)
    shown, suffered = rng.standard_normal((photographs, 16)), rng.standard_normal((2, 16))
    embedding, datasets, images = [], [], []
    for kind in range(2):
        for i in range(photographs):
            embedding.append(content * shown[i] + degradation * suffered[kind] + 0.01 * rng.standard_normal(16))
            datasets.append(f'kind{kind}')
            images.append(f'photo{i}')
    return embedding, datasets, images


def test_degradations_that_are_encoded_are_recognised(tmp_path):
    found = write(tmp_path, *made(content=0.1, degradation=3))
    assert found['accuracy'] == found['balanced_accuracy'] == 1
    assert found['silhouette'] > 0.8
    assert found['confusion'] == [[12, 0], [0, 12]]
    kinds = [np.array([(p['x'], p['y']) for p in found['points'] if p['dataset'] == f'kind{k}']) for k in range(2)]
    gap = np.linalg.norm(kinds[0].mean(0) - kinds[1].mean(0))
    assert gap > 2 * max(np.linalg.norm(points - points.mean(0), axis=1).mean() for points in kinds)


def test_embeddings_of_content_alone_are_not_taken_for_understanding(tmp_path):
    """Several hazy versions of each photograph: among all neighbours, its other versions would give the haze away."""
    rng = np.random.RandomState(1)
    datasets = np.repeat(['SOTS_outdoor', 'Rain100L'], 60)
    images = [f'{i // 6:04d}_0.{8 + i % 2}_0.0{i % 6 + 1}' for i in range(60)]
    images += [f'{50 + i // 6:04d}_0.9_0.{i % 6 + 1}' for i in range(60)]
    shown = np.repeat(rng.standard_normal((20, 16)), 6, axis=0)
    found = write(tmp_path, shown + 0.01 * rng.standard_normal(shown.shape), datasets, images)
    assert found['photographs'] == 20 and found['shared'] == 0
    assert found['accuracy'] < 0.75


def test_the_photograph_is_what_the_test_recorded(tmp_path):
    """Keys of an LMDB tell it by the clean image that they have in common, whatever they are called."""
    rng = np.random.RandomState(1)
    shown = np.repeat(rng.standard_normal((20, 16)), 6, axis=0)
    embedding = np.float32(shown + 0.01 * rng.standard_normal(shown.shape))
    images = [f'p{i // 6}-{"abcdef"[i % 6]}' for i in range(120)]
    of = {'embedding': embedding, 'dataset': np.repeat(['SOTS_outdoor', 'Rain100L'], 60), 'image': images}
    np.savez(tmp_path / 'embeddings.npz', **of, scene=[name.split('-')[0] for name in images])
    found = understand(tmp_path)
    assert found['photographs'] == 20 and found['accuracy'] < 0.75


def test_which_images_show_one_photograph():
    assert photograph('0001_0.8_0.2') == photograph('0001_1_0.04') == '0001'
    assert photograph('0001_0p8_0p2') == photograph('0001_1_0p04') == '0001'
    assert photograph('kodim01') == 'kodim01' and photograph('img_001') == 'img_001'


@pytest.mark.parametrize(
    ('datasets', 'images', 'reason'),
    [
        (['a', 'a', 'a'], ['1', '2', '3'], 'one dataset only'),
        (['a', 'a', 'b'], ['1', '2', '3'], 'two images of each dataset'),
        (['a', 'a', 'b', 'b'], ['1', '1', '1', '1'], 'two photographs'),
    ],
)
def test_too_few_say_why(tmp_path, datasets, images, reason):
    embedding = np.random.RandomState(0).standard_normal((len(images), 8))
    assert reason in write(tmp_path, embedding, datasets, images)['reason']


def test_embeddings_that_are_all_the_same_say_so(tmp_path):
    """scikit-learn's t-SNE would end the process."""
    _, datasets, images = made(content=0.1, degradation=3)
    for value in (0, 0.1):
        assert 'the same for all images' in write(tmp_path, np.full((24, 16), value), datasets, images)['reason']


def test_one_photograph_of_most_images(tmp_path):
    embedding, datasets, _ = made(content=0.1, degradation=3)
    found = write(tmp_path, embedding, datasets, [f'photo{i in (11, 23)}' for i in range(24)])
    assert found['photographs'] == 2 and found['neighbours'] == 2


@pytest.mark.parametrize('finite', [0, 12])
def test_embeddings_of_fewer_than_two_sets_that_are_numbers(tmp_path, finite):
    embedding, datasets, images = made(content=0.1, degradation=3)
    embedding[finite:] = [np.full(16, np.nan)] * (24 - finite)
    assert (
        'fewer than two of its datasets have embeddings that are finite'
        in (write(tmp_path, embedding, datasets, images)['reason'])
    )


def test_damaged_files_are_named(tmp_path):
    embedding, datasets, images = made(content=0.1, degradation=3)
    of = {'embedding': np.float32(embedding), 'dataset': datasets, 'image': images}
    path = tmp_path / 'embeddings.npz'
    np.savez_compressed(path, **of)
    content = path.read_bytes()
    for place in range(60, 400, 20):
        path.write_bytes(content[:place] + b'\xff' * 60 + content[place + 60 :])
        with pytest.raises(InputError, match=r'embeddings.npz cannot be read .*: test again'):
            understand(tmp_path)
    for changed in ({'embedding': np.float32(embedding).astype(str)}, {'dataset': 'kind0'}, {'image': images[1:]}):
        np.savez(path, **(of | changed))
        with pytest.raises(InputError, match=r'embeddings.npz: .*: test again'):
            understand(tmp_path)


def test_without_an_encoder_there_is_no_answer(tmp_path):
    assert 'no degradation encoder' in understand(tmp_path)['reason']


def test_embeddings_that_are_no_numbers_are_counted(tmp_path):
    embedding, datasets, images = made(content=0.1, degradation=3)
    embedding[3][0] = np.nan
    found = write(tmp_path, embedding, datasets, images)
    assert found['left_out'] == 1 and found['images'] == 23
