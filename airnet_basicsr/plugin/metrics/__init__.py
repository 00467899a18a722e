from airnet_basicsr.plugin.metrics.perceptual import calculate_pyiqa, load_pyiqa
from airnet_basicsr.plugin.metrics.release import calculate_psnr_release, calculate_ssim_release

__all__ = ['calculate_psnr_release', 'calculate_pyiqa', 'calculate_ssim_release', 'load_pyiqa']
