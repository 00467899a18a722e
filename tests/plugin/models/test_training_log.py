"""What TensorBoard shows of a training run."""

import pytest
from conftest import run_python
from small_run import write_options
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


@pytest.fixture(scope='module')
def log(tmp_path_factory, paper_datasets):
    folder = tmp_path_factory.mktemp('logged')
    (folder / 'datasets').symlink_to(paper_datasets / 'datasets')
    write_options(folder, total_iter=20, use_tb_logger='true')
    done = run_python('-m', 'airnet_basicsr.train', '-opt', 'run.yml', cwd=folder, OMP_NUM_THREADS='1')
    assert done.returncode == 0, done.stdout[-3000:]
    events = EventAccumulator(str(folder / 'tb_logger/run'), size_guidance={'images': 0})
    events.Reload()
    return events


def test_scalars_of_every_iteration(log):
    for name in ('losses/l_contrast', 'contrast_acc', 'grad_norm', 'lr', 'data_time'):
        assert [event.step for event in log.Scalars(name)] == list(range(1, 21)), name
    assert len(log.Scalars('losses/l_pix')) == 14  # after six iterations of warm-up
    assert all(event.value > 0 for event in log.Scalars('images_per_s'))
    assert [event.step for event in log.Scalars('metrics/val/psnr')] == [10, 20, 20]


def test_pictures_of_each_validation(log):
    pictures = [tag for tag in log.Tags()['images'] if tag.startswith('val/')]
    assert len(pictures) == 3  # images in the validation set
    for tag in (*pictures, 'embedding'):
        assert [event.step for event in log.Images(tag)] == [10, 20, 20]
    width, height = 40, 33
    assert (log.Images(pictures[0])[0].width, log.Images(pictures[0])[0].height) == (3 * width, height)
