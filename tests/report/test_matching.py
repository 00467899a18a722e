"""Names as the field's repositories write them, each with what it must be matched with."""

import pytest

from airnet_basicsr.errors import InputError
from airnet_basicsr.report.matching import list_pictures, match


@pytest.mark.parametrize(
    ('restored', 'clean'),
    [
        ({'a.png': 'a.jpg', 'sub/b.png': 'sub/b.png'}, []),
        ({'kodim01_test_airnet.png': 'kodim01.png', 'kodim03_test_airnet.png': 'kodim03.png'}, []),  # BasicSR
        ({'a_x_output.png': 'a_x.png', 'b_x_output.png': 'b_x.png'}, []),
        ({'kodim01_31.22.png': 'kodim01.png', 'kodim03_9.5.png': 'kodim03.png'}, []),  # MoCE-IR
        ({'0001_0.8_0.2.jpg': '0001.png', '0001_0.9_0.1.jpg': '0001.png', '0003_1_0.2.jpg': '0003.png'}, []),  # SOTS
        ({'1400_1.png': '1400.png', '1400_2.png': '1400.png', '1401_1.png': '1401.png'}, []),  # SOTS indoor
        ({'0001_0.8_0.2_run.png': '0001.png', '0003_0.8_0.1_run.png': '0003.png'}, []),
        ({'rain-001.png': 'norain-001.png', 'rain-002.png': 'norain-002.png'}, []),  # Rain100L
        ({'test/rain-1.png': 'norain-1.png', 'test/rain-2.png': 'norain-2.png'}, []),
        ({'low00690.png': 'normal00690.png', 'low00691.png': 'normal00691.png'}, []),  # LOL-v2
        ({'0_rain.png': '0_clean.png', '1_rain.png': '1_clean.png'}, []),  # RainDrop
        ({'im_0001_s80_a04.png': 'im_0001.png', 'im_0002_s80_a04.png': 'im_0002.png'}, []),
        ({'low_haze_00010.png': '00010.png', 'rain_00010.png': '00010.png'}, []),  # CDD-11, flattened
        ({'a.png': 'a_gt.png', 'b.png': 'b_gt.png'}, []),
        # Some are missing on one side: the others keep their own names, none is bent to fit.
        ({'im_1.png': 'im_1.png', 'im_2.png': 'im_2.png'}, ['im_3.png', 'im.png']),
    ],
)
def test_known_names(restored, clean):
    found = match(sorted(restored), sorted({*restored.values(), *clean}))
    assert found.pairs == restored
    assert found.alone == {}
    assert found.unused == sorted(clean)


def test_what_has_no_partner_is_listed():
    found = match(['a.png', 'im_2.png', 'im_4.png'], ['im_2.png', 'im_3.png', 'im.png'])
    assert found.pairs == {'im_2.png': 'im_2.png'}
    assert found.alone == {'a.png': 'no picture has its name', 'im_4.png': 'no picture has its name'}
    assert found.unused == ['im_3.png', 'im.png']
    found = match(['a.jpg', 'a.png', 'b.png'], ['a.png', 'b.png'])
    assert found.pairs == {'b.png': 'b.png'}
    assert found.alone == {'a.jpg': 'it has the name of a.png', 'a.png': 'it has the name of a.jpg'}
    found = match(['a.png', 'b.png'], ['a.jpg', 'a.png', 'b.png'])
    assert found.pairs == {'b.png': 'b.png'}
    assert found.alone == {'a.png': 'several pictures could be its partner: a.jpg, a.png'}
    assert match(['a.png'], ['b.png']) is None


def test_degraded_pictures_may_have_the_longer_names():
    names = ['0001.png', '0003.png'], ['0001_0.8_0.2.png', '0003_0.9_0.1.png']
    assert match(*names) is None
    assert match(*names, either_way=True).pairs == dict(zip(*names, strict=True))
    several = match(names[0], [*names[1], '0001_0.9_0.2.png'], either_way=True)
    assert several.pairs == {'0003.png': '0003_0.9_0.1.png'} and 'several' in several.alone['0001.png']


def test_folders(tmp_path):
    with pytest.raises(InputError, match='there is no folder .*none'):
        list_pictures(tmp_path / 'none')
    (tmp_path / 'notes.txt').touch()
    with pytest.raises(InputError, match='has no pictures'):
        list_pictures(tmp_path)
    (tmp_path / 'sub').mkdir()
    (tmp_path / 'sub/a.PNG').touch()
    assert list_pictures(tmp_path) == (['sub/a.PNG'], ['notes.txt'])


def test_links_that_lead_back_and_hidden_files_are_passed_over(tmp_path):
    for name in ('a.png', '._a.png', '.x.part'):
        (tmp_path / name).touch()
    (tmp_path / 'loop').symlink_to(tmp_path)
    assert list_pictures(tmp_path) == (['a.png'], [])
