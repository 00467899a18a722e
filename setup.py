"""Build and installation of airnet-basicsr.

BasicSR is needed but not listed below: `basicsr` and `basicsr-fixed` (its git master) install the same package, and a
requirement on one would overwrite the other. The Makefile installs the first where neither is there.
"""

from pathlib import Path

from setuptools import Extension, find_packages, setup

# For exporting models and running what was exported.
ONNX = ['onnx', 'onnxruntime>=1.20']
# For tables, pictures and pages of test results.
REPORT = ['jinja2', 'matplotlib', 'scikit-learn']
# CBM3D as a baseline. bm3d's licence is for non-commercial use.
BASELINES = ['bm3d']

setup(
    name='airnet-basicsr',
    version='0.1.0',
    description='AirNet, the all-in-one image restoration network (CVPR 2022), as a plugin of BasicSR',
    long_description=Path(__file__).with_name('README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    python_requires='>=3.10',
    packages=find_packages(include=['airnet_basicsr', 'airnet_basicsr.*']),
    package_data={'airnet_basicsr': ['report/*.html', 'weights/*']},
    install_requires=['torch>=2.6', 'torchvision', 'numpy', 'opencv-python', 'lmdb', 'scikit-image', 'tqdm', 'pyyaml']
    + ['pillow>=11', 'tifffile', 'filelock'],
    # Optional: where it cannot be compiled, a slower backend in stock PyTorch serves. Loaded through ctypes.
    ext_modules=[
        Extension(
            'airnet_basicsr.network.ops._native',
            ['airnet_basicsr/network/ops/native.cpp'],
            language='c++',
            extra_compile_args=['-std=gnu++17', '-O3', '-pthread'],
            extra_link_args=['-pthread'],
            optional=True,
        )
    ],
    extras_require={
        'onnx': ONNX,
        'report': REPORT,
        'baselines': BASELINES,
        'perceptual': ['pyiqa'],
        'dev': ['pytest', 'ruff', *ONNX, *REPORT, *BASELINES],
    },
    entry_points={
        'console_scripts': [
            'airnet-restore=airnet_basicsr.restore.command:main',
            'airnet-model=airnet_basicsr.network.model_files:main',
        ]
    },
)
