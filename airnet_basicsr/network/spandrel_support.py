"""AirNet for spandrel, the library by which other programs load restoration models: after :func:`install` they do."""

from airnet_basicsr.errors import InputError
from airnet_basicsr.network import recognise


def install() -> None:
    """Add AirNet to spandrel's main registry; called again, it changes nothing.

    From then on ``spandrel.ModelLoader`` takes our files and those of the official release, as .pth or .safetensors.

    Raises:
        InputError: spandrel is not installed.
    """
    try:
        from spandrel import MAIN_REGISTRY, Architecture, ArchSupport, ImageModelDescriptor, StateDict
    except ImportError as error:
        raise InputError('this needs spandrel: pip install "airnet-basicsr[spandrel]"') from error

    class AirNetArch(Architecture):
        def __init__(self) -> None:
            super().__init__(id='AirNet', detect=recognise.detect)

        def load(self, state_dict: StateDict) -> ImageModelDescriptor:
            found = recognise.load(state_dict)
            return ImageModelDescriptor(
                found.model,
                found.model.state_dict(),  # which the descriptor loads once more; our names
                architecture=self,
                purpose='Restoration',
                tags=[f'{found.options["num_feat"]}nf', f'{found.options["num_group"]}x{found.options["num_block"]}'],
                supports_half=found.supports_half,
                supports_bfloat16=found.supports_bfloat16,
                scale=found.scale,
                input_channels=found.input_channels,
                output_channels=found.output_channels,
            )

    if 'AirNet' not in MAIN_REGISTRY:
        MAIN_REGISTRY.add(ArchSupport.from_architecture(AirNetArch()))
