"""What a picture is said to suffer from, against scikit-learn's discriminant analysis; and what is left alone."""

import numpy as np
import pytest
import torch
from sklearn.covariance import EmpiricalCovariance
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from airnet_basicsr.errors import InputError
from airnet_basicsr.network.airnet import AirNet
from airnet_basicsr.network.checkpoints import Checkpoint, write_checkpoint
from airnet_basicsr.restore import Restorer
from airnet_basicsr.restore.explain import Explainer, fit

KINDS = ('rain', 'haze', 'noise_15', 'noise_50', 'clean')


@pytest.fixture
def groups():
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(12, 12, generator=generator)
    centres = torch.randn(len(KINDS), 12, generator=generator) * 2
    centres[KINDS.index('noise_50')] *= 5
    return {
        name: centre @ mixing + torch.randn(600, 12, generator=generator) @ mixing
        for name, centre in zip(KINDS, centres, strict=True)
    }


def with_facts(reference):
    for name in KINDS:
        reference[name]['patch_size'] = torch.tensor(8)
    reference['noise_15']['sigma'], reference['noise_50']['sigma'] = torch.tensor(15.0), torch.tensor(50.0)
    return reference


def flat(value):
    return np.full((8, 8, 3), value, np.uint8)


class Shrunk(EmpiricalCovariance):
    """Covariance as :func:`fit` takes it: a twentieth of the way towards its diagonal."""

    def fit(self, x, y=None):
        super().fit(x)
        self.covariance_ = 0.95 * self.covariance_ + 0.05 * np.diag(np.diag(self.covariance_))
        return self


def test_probabilities_are_those_of_discriminant_analysis(groups):
    pooled, labels = torch.cat(list(groups.values())).numpy(), np.repeat(np.arange(len(KINDS)), 600)
    peer = LinearDiscriminantAnalysis(solver='lsqr', priors=[0.2] * 5, covariance_estimator=Shrunk()).fit(
        pooled, labels
    )
    reference = with_facts(fit(groups))
    for seen in torch.cat([group[:5] for group in groups.values()]):
        found = Explainer(lambda patch, seen=seen: seen, reference)(flat(100))
        expected = peer.predict_proba(seen[None].numpy())[0] ** 0.2  # less sure than of another patch of the reference
        expected /= expected.sum()
        np.testing.assert_allclose([found.probabilities[name] for name in KINDS], expected, atol=0.01)


def test_a_picture_is_judged_by_the_mean_of_its_patches_as_8_bits_hold_them(groups):
    """One line of five patches, the last two of another kind; the values beyond black and white are noise's."""
    reference = with_facts(fit(groups))
    values = []

    def embed(patch):
        values.extend((float(patch.min()), float(patch.max())))
        return groups['clean' if patch.mean() < 0.5 else 'rain'].mean(0)

    line = np.full((8, 40, 3), -0.5, np.float32)
    line[:, 24:] = 1.5
    found = Explainer(embed, reference)(line)
    mean = 0.6 * groups['clean'].mean(0) + 0.4 * groups['rain'].mean(0)
    expected = Explainer(lambda patch: mean, reference)(flat(9))
    assert sorted(set(values)) == [0, 1]
    np.testing.assert_allclose(list(found.probabilities.values()), list(expected.probabilities.values()), atol=1e-5)


def test_older_files_with_embeddings_explain_alike(groups):
    older = with_facts({name: {'embeddings': group} for name, group in groups.items()})
    seen = groups['haze'][0]
    new, old = (Explainer(lambda patch: seen, reference)(flat(9)) for reference in (with_facts(fit(groups)), older))
    assert new.kind == old.kind == 'haze'
    np.testing.assert_allclose(list(new.probabilities.values()), list(old.probabilities.values()), atol=1e-5)


def test_clean_and_strange_pictures_are_left_alone(groups):
    reference = with_facts(fit(groups))

    def reason(seen):
        return Explainer(lambda patch: seen, reference)(flat(9)).reason_to_leave_alone

    assert 'clean' in reason(groups['clean'].mean(0))
    assert reason(groups['rain'].mean(0)) is None
    # Noise of a level between those of the reference is no stranger, however far apart they lie.
    assert reason(0.4 * groups['noise_15'].mean(0) + 0.6 * groups['noise_50'].mean(0)) is None
    assert 'nothing' in reason(groups['rain'].mean(0) + 100 * (groups['rain'].mean(0) - groups['clean'].mean(0)))


@pytest.fixture
def model(tmp_path):
    """A network whose reference takes dark pictures for clean and bright ones for rainy."""
    torch.manual_seed(0)
    net = AirNet(num_feat=16, num_group=1, num_block=1, unshuffle=2).eval()
    generator = torch.Generator().manual_seed(0)

    def embeddings(level):
        patches = (level + 0.05 * torch.rand(40, 3, 8, 8, generator=generator)).clamp(0, 1)
        with torch.no_grad():
            return net(patches, encode=True, restore=False).embedding

    reference = fit({'clean': embeddings(0.2), 'rain': embeddings(0.7)})
    for name in ('clean', 'rain'):
        reference[name]['patch_size'] = torch.tensor(8)
    path = tmp_path / 'model.pth'
    write_checkpoint(path, Checkpoint({'params': net.state_dict()}, None, reference))
    return path


def noisy(level, dtype=np.uint8):
    return (np.random.RandomState(0).uniform(level, level + 0.05, (40, 30, 3)) * np.iinfo(dtype).max).astype(dtype)


def test_a_clean_picture_is_given_back_as_it_is_unless_asked_otherwise(model):
    clean, rainy = noisy(0.2, np.uint16), noisy(0.7)
    assert 'clean' in Restorer(model).reason_to_leave_alone(clean)
    np.testing.assert_array_equal(Restorer(model)(clean), clean)
    assert (Restorer(model, leave_alone=False)(clean) != clean).any()
    assert Restorer(model).reason_to_leave_alone(rainy) is None
    assert (Restorer(model)(rainy) != rainy).any()


def test_strength_goes_from_the_picture_to_the_network(model):
    rainy = noisy(0.7)
    none, half, full, bare = (
        Restorer(model, strength=strength, leave_alone=False)(rainy) for strength in (0, 0.5, 1, 1.0)
    )
    np.testing.assert_array_equal(none, rainy)
    np.testing.assert_array_equal(full, bare)
    blended = (rainy.astype(float) + Restorer(model, leave_alone=False)(rainy)) / 2
    inside = (full > 0) & (full < 255)  # elsewhere the network's output was clipped
    assert inside.any()
    assert np.abs(half - blended)[inside].max() <= 1


@pytest.mark.parametrize('strength', [-0.1, 1.5, float('nan')])
def test_a_strength_out_of_range_is_refused(model, strength):
    with pytest.raises(InputError, match='strength'):
        Restorer(model, strength=strength)


def test_without_reference_embeddings_nothing_can_be_left_alone(tmp_path):
    path = tmp_path / 'plain.pth'
    write_checkpoint(path, Checkpoint({'params': AirNet(num_feat=16, num_group=1, num_block=1).state_dict()}, None))
    assert Restorer(path).leave_alone is False
    with pytest.raises(InputError, match='no reference embeddings'):
        Restorer(path, leave_alone=True)


def test_an_encoder_that_gives_no_numbers_is_said(model):
    restorer = Restorer(model, strength=0)
    restorer.network.encoder.blocks[0].body[0].weight.data[0] = float('nan')
    with pytest.raises(InputError, match='the encoder gave values that are no numbers'):
        restorer(noisy(0.7))
