"""The native library of airnet-basicsr, and how its wheel is put together; pyproject.toml describes the package.

BasicSR is needed for training but is no requirement of the extra `train`: `basicsr` and `basicsr-fixed` (its git
master) install the same package, and a requirement on one would overwrite the other. The Makefile installs the first
where neither is there.
"""

import shutil
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py


class BuildLibrary(build_ext):
    """Loaded through ctypes, the library belongs to no version of Python."""

    def get_ext_filename(self, fullname: str) -> str:
        return str(Path(*fullname.split('.')).with_suffix('.pyd' if self.plat_name.startswith('win') else '.so'))


class BuildPackage(build_py):
    """The option files, which people edit at the top of the checkout, travel inside the package."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for path in Path('options').rglob('*.yml'):
                target = Path(self.build_lib, 'airnet_basicsr/prepare/option_files', path.relative_to('options'))
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)


class BuildWheel(bdist_wheel):
    """A wheel for every Python of a platform; without a compiler, for every platform."""

    def run(self) -> None:
        self.run_command('build_ext')
        if not any(Path(path).exists() for path in self.get_finalized_command('build_ext').get_outputs()):
            self.distribution.ext_modules = None
            self.root_is_pure = True
        super().run()

    def get_tag(self) -> tuple[str, str, str]:
        platform = super().get_tag()[2]
        return 'py3', 'none', 'any' if self.root_is_pure else platform


setup(
    # Optional: where it cannot be compiled, a slower backend in stock PyTorch serves.
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
    cmdclass={'build_ext': BuildLibrary, 'build_py': BuildPackage, 'bdist_wheel': BuildWheel},
)
