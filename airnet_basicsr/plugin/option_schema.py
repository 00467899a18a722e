"""What each key of an option file may be: the one description that checks, the JSON schema and the page of keys share.

Keys that are not listed here are left alone: networks, losses, metrics, datasets and degradations have keys of their
own, and so may a subclass of a model.

:mod:`airnet_basicsr.plugin.option_page` prints the two latter.
"""

import math
import re
import types
from collections.abc import Generator, Iterator
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

Positive = Annotated[int, Meta(ge=1)]
Count = Annotated[int, Meta(ge=0)]
Text = Annotated[str, Meta(min_length=1)]
Weight = Annotated[float, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0, le=1)]
Betas = Annotated[list[Share], Meta(min_length=2, max_length=2)]


class Degradation(Struct, kw_only=True):
    """One kind of degradation. Each kind has keys of its own; datasets.md lists them."""

    type: Text
    weight: Annotated[Positive, Meta(description='patches of each training item that get it')] = 1
    sigma: Annotated[
        float | list[float] | UnsetType, Meta(description='noise level, 0 to 255; [from, to]: drawn from the range')
    ] = UNSET
    sigmas: Annotated[list[float], Meta(description='noise levels of the four quarters (SpatiallyVariantNoise)')] = []
    protocol: Annotated[
        Literal['uint8', 'float'], Meta(description='noisy images clipped and truncated to 8 bits, or not')
    ] = 'uint8'
    dataroot_gt: Annotated[str | list[str], Meta(description='clean images: a folder or an LMDB, or several')] = ''
    dataroot_lq: Annotated[str, Meta(description='degraded images: a folder or an LMDB')] = ''
    filename_tmpl: Annotated[str, Meta(description="name of the degraded image; {} stands for the clean one's")] = '{}'
    of: Annotated[list['Degradation'], Meta(description='the parts of a Composite')] = []


class Dataset(Struct, kw_only=True):
    """A dataset of BasicSR, of this package (MultiDegradationDataset, DegradationTestDataset) or your own."""

    name: Annotated[Text, Meta(description='name in logs, records and folders')]
    type: Annotated[Text, Meta(description='class in the registry of datasets')]
    degradations: Annotated[dict[str, Degradation], Meta(description='by name (MultiDegradationDataset)')] = {}
    degradation: Annotated[Degradation | UnsetType, Meta(description='one kind (DegradationTestDataset)')] = UNSET
    gt_size: Annotated[Positive | UnsetType, Meta(description='side of a training patch, in pixels')] = UNSET
    contrastive: Annotated[bool, Meta(description='whether items hold query and key of each degradation')] = True
    seed: Annotated[int, Meta(description='seed of the noise in a test')] = 0
    crop_multiple: Annotated[Positive, Meta(description='test images are cropped to multiples of it')] = 1
    dataroot_gt: str | list[str] | None = None
    dataroot_lq: str | list[str] | None = None
    filename_tmpl: str = '{}'
    use_hflip: bool = False
    use_rot: bool = False
    num_worker_per_gpu: Annotated[Count | UnsetType, Meta(description='processes that load data')] = UNSET
    batch_size_per_gpu: Annotated[Positive | UnsetType, Meta(description='items in a batch')] = UNSET
    dataset_enlarge_ratio: Annotated[
        Annotated[float, Meta(gt=0)], Meta(description='passes through the dataset in one epoch')
    ] = 1
    prefetch_mode: Annotated[Literal['cpu', 'cuda'] | None, Meta(description='`cuda` needs `pin_memory: true`')] = None
    num_prefetch_queue: Positive = 1
    pin_memory: bool = False
    persistent_workers: bool = False


class Optimizer(Struct, kw_only=True):
    """The other keys are those of the class."""

    type: Annotated[Text, Meta(description='class of torch.optim, or `Muon`')]
    lr: Annotated[Weight, Meta(description='learning rate')]
    weight_decay: Weight = 0
    betas: Betas | UnsetType = UNSET
    eps: Weight = 1e-8
    momentum: Weight = 0
    fused: bool | None = None


class Scheduler(Struct, kw_only=True):
    """The keys are those of the class."""

    type: Annotated[
        Text, Meta(description='MultiStepLR, MultiStepRestartLR, CosineAnnealingRestartLR or WarmupCosineLR')
    ]
    milestones: Annotated[list[Count], Meta(description='iterations at which the rate is multiplied by gamma')] = []
    gamma: Weight = 0.1
    restarts: Annotated[list[Count], Meta(description='iterations at which the rate restarts; the first is 0')] = []
    restart_weights: Annotated[list[Weight], Meta(description='factor of the rate at each restart')] = []
    periods: Annotated[list[Positive], Meta(description='lengths of the cosines, together at least total_iter')] = []
    eta_min: Annotated[Weight, Meta(description='lowest rate')] = 0
    warmup: Annotated[Count, Meta(description='iterations of WarmupCosineLR in which the rate rises')] = 0


class Loss(Struct, kw_only=True):
    """The other keys are those of the class."""

    type: Annotated[Text, Meta(description='class in the registry of losses')]
    loss_weight: float = 1
    reduction: str = 'mean'


class Train(Struct, kw_only=True):
    """How a network is trained. Models of your own may have more keys (``TRAIN_KEYS``)."""

    total_iter: Annotated[Positive, Meta(description='iterations; training ends here')]
    optim_g: Optimizer | UnsetType = UNSET
    scheduler: Scheduler | UnsetType = UNSET
    warmup_iter: Annotated[int, Meta(description="iterations of BasicSR's linear warm-up of the rate; -1: none")] = -1
    ema_decay: Annotated[Share, Meta(description='decay of the moving average of the weights; 0: none')] = 0
    pixel_opt: Annotated[Loss | None, Meta(description='pixel loss')] = None
    perceptual_opt: Annotated[dict[str, Any] | None, Meta(description="BasicSR's PerceptualLoss")] = None
    contrast_opt: Annotated[Loss | None, Meta(description='contrastive loss (AirNetModel)')] = None
    encoder_warmup_iter: Annotated[Count, Meta(description='iterations that train only the encoder (AirNetModel)')] = 0
    queue_size: Annotated[Positive, Meta(description='keys in the queue (AirNetModel)')] = 1280
    key_momentum: Annotated[Share, Meta(description='momentum of the key encoder (AirNetModel)')] = 0.999
    freeze_encoder: Annotated[
        bool | Literal['z'],
        Meta(description='true: train only the restorer; z: only what the restorer does not see (AirNetModel)'),
    ] = False
    amp: Annotated[Literal['bf16', 'fp16'] | None, Meta(description='precision of the forward pass')] = None
    accumulate: Annotated[Positive, Meta(description='batches whose gradients one iteration averages')] = 1
    grad_clip: Annotated[Weight | None, Meta(description='largest norm of the gradient')] = None
    nonfinite_limit: Annotated[Positive, Meta(description='skipped steps in a row before training stops')] = 20
    output_weights: Annotated[
        list[float] | None, Meta(description='weights of the pixel losses of several outputs')
    ] = None
    sync_bn: Annotated[bool, Meta(description='BatchNorm statistics over all GPUs')] = False


class Metric(Struct, kw_only=True):
    """The other keys are those of the function."""

    type: Annotated[Text, Meta(description='function in the registry of metrics')]
    better: Literal['higher', 'lower'] = 'higher'
    crop_border: Annotated[Count | UnsetType, Meta(description='pixels left out at each side')] = UNSET
    test_y_channel: Annotated[bool, Meta(description='measure luma only')] = False


class Val(Struct, kw_only=True):
    """Validation in training, and testing."""

    val_freq: Annotated[Positive | UnsetType, Meta(description='iterations between validations')] = UNSET
    save_img: Annotated[bool, Meta(description='write the restored images')]
    suffix: Annotated[str | int | None, Meta(description='suffix of their names; default: the name of the test')] = None
    metrics: Annotated[dict[str, Metric] | None, Meta(description='by their names in results')] = None
    pbar: Annotated[bool, Meta(description='show a progress bar')] = True
    tile: Annotated[Positive | None, Meta(description='side of the tiles of larger images, in pixels')] = None
    tile_overlap: Annotated[Count | None, Meta(description='pixels that neighbouring tiles share')] = None
    multiple: Annotated[
        Positive | None, Meta(description='images are padded to multiples of it; SwinIR and RRDBNet need no telling')
    ] = None


class Wandb(Struct, kw_only=True):
    """Weights & Biases."""

    project: str | None = None
    resume_id: str | None = None


class Logger(Struct, kw_only=True):
    """What training writes."""

    print_freq: Annotated[Positive, Meta(description='iterations between lines of the log')]
    save_checkpoint_freq: Annotated[Positive, Meta(description='iterations between checkpoints')]
    use_tb_logger: Annotated[bool, Meta(description='write TensorBoard logs')] = False
    wandb: Wandb | None = None
    keep_last: Annotated[Count | None, Meta(description='numbered checkpoints to keep; nothing or 0: all')] = None
    keep_best: Annotated[str | None, Meta(description='metric by which the best network is kept')] = None


class Path(Struct, kw_only=True):
    """Files to start from."""

    pretrain_network_g: Annotated[str | None, Meta(description='checkpoint to start from, or to test')] = None
    strict_load_g: Annotated[bool, Meta(description='refuse a checkpoint that does not fit')] = True
    param_key_g: Annotated[str | None, Meta(description='`params`, or `params_ema` for the moving average')] = 'params'
    resume_state: Annotated[str | None, Meta(description='training state of this run to resume from')] = None


class Compute(Struct, kw_only=True):
    """How a network is computed; results differ only by rounding."""

    dcn_backend: Annotated[str | None, Meta(description='backend of the deformable convolution')] = 'auto'
    channels_last: Annotated[
        bool | None, Meta(description='memory layout of feature maps; nothing: the faster one')
    ] = None
    tf32: Annotated[bool | None, Meta(description='TF32, on GPUs that have it')] = None
    compile: Annotated[bool | None, Meta(description='train through torch.compile')] = None


class OptionFile(Struct, kw_only=True):
    """An option file."""

    name: Annotated[Text, Meta(description='name of the run, and of the folder of its results')]
    model_type: Annotated[Text, Meta(description='class in the registry of models')]
    num_gpu: Annotated[Count | Literal['auto'], Meta(description='0: compute on the CPU')]
    scale: Annotated[Positive, Meta(description='factor of super-resolution; 1: output and input have equal size')] = 1
    manual_seed: Annotated[
        Annotated[int, Meta(ge=0, lt=2**32 - 2**16)] | None,
        Meta(description='seed of all random draws; nothing: random'),
    ] = None
    datasets: Annotated[dict[str, Dataset], Meta(description='`train`; `val`, `val_2`, ...; `test_1`, `test_2`, ...')]
    network_g: Annotated[
        dict[str, Any] | UnsetType, Meta(description='`type`, class in the registry of networks, and its parameters')
    ] = UNSET
    path: Path
    train: Train | UnsetType = UNSET
    val: Val | None = None
    logger: Logger | UnsetType = UNSET
    compute: Compute | None = None
    find_unused_parameters: bool = False


# ---- Checking --------------------------------------------------------------------------------------------------------


class Fault(NamedTuple):
    """Something wrong with an option file."""

    place: str
    what: str

    def __str__(self) -> str:
        return f'option {self.place}: {self.what}'


_NUMBER = re.compile(r'[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?')


def number_of(value: Any) -> Any:
    """``value``, or the number that it spells: YAML 1.1 reads ``1e-4``, without a point, as text."""
    if not (isinstance(value, str) and _NUMBER.fullmatch(value)):
        return value
    number = float(value)
    return int(value) if value.lstrip('+-').isdigit() else number


def read_numbers(options: Any) -> None:
    """Turn text into numbers, in place, where :class:`OptionFile` wants numbers."""
    if isinstance(options, dict):
        faults_of(options)


def faults_of(
    section: dict[str, Any], described: type[Struct] = OptionFile, where: str = '', required: bool = True
) -> list[Fault]:
    """What is wrong with a section, each in a line; numbers that are text become numbers, in place.

    Args:
        section: The options, or a part of them.
        described: The struct of this module that says what they may be.
        where: Its place in the file (``train:optim_g``).
        required: Whether keys may not be missing.
    """
    return list(_section(section, described, where, required))


def _section(section: dict[str, Any], described: type[Struct], where: str, required: bool) -> Iterator[Fault]:
    hints = get_type_hints(described, include_extras=True)
    needed = [field.name for field in msgspec.structs.fields(described) if field.required]
    for key in needed if required else ():
        if section.get(key) is None:
            yield Fault(where or 'file', f'the key `{key}` is missing')
    for key in [key for key in section if key in hints]:
        place = f'{where}:{key}' if where else key
        if required and section[key] is None and key in needed:
            continue  # missing, as said
        section[key] = yield from _value(section[key], hints[key], place, required)


def _value(value: Any, wanted: Any, where: str, required: bool) -> Generator[Fault, None, Any]:
    """Faults of ``value``; gives it back with numbers for text."""
    kinds = list(kinds_of(wanted))
    struct = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Struct)), None)
    mapped = next((get_args(kind)[1] for kind in kinds if get_origin(kind) is dict), None)
    if isinstance(value, dict) and struct is not None:
        yield from _section(value, struct, where, required)
    elif isinstance(value, dict) and mapped is not None:
        for key in value if mapped is not Any else ():
            value[key] = yield from _value(value[key], mapped, f'{where}:{key}', required)
    elif isinstance(value, list) and list[Degradation] in kinds:
        for number, each in enumerate(value, 1):
            yield from _value(each, Degradation, f'{where}, number {number}', required)
    else:
        value = _number(value, kinds)
        if not _fits(value, wanted):
            found = 'nothing; fill it in, or leave the key out' if value is None else repr(value)
            if str in kinds and isinstance(value, int | float):
                found += '; write it in quotes'
            yield Fault(where, f'expected {words(wanted)}, found {found}')
    return value


def _number(value: Any, kinds: list[Any]) -> Any:
    """``value``, with numbers for text where a number is among the kinds, and text is not."""
    if isinstance(value, list):
        items = [kind for each in kinds if get_origin(each) is list for kind in kinds_of(get_args(each)[0])]
        return [_number(each, items) for each in value]
    if str not in kinds and (int in kinds or float in kinds):
        value = number_of(value)
    if isinstance(value, float) and int in kinds and float not in kinds and value.is_integer():
        return int(value)
    return value


def _fits(value: Any, wanted: Any) -> bool:
    if any(
        isinstance(each, float) and not math.isfinite(each) for each in (value if isinstance(value, list) else [value])
    ):
        return False
    if value is None and bool in kinds_of(wanted):  # as BasicSR takes it
        return True
    try:
        msgspec.convert(value, wanted)
    except msgspec.ValidationError:
        return False
    return True


def kinds_of(wanted: Any) -> Iterator[Any]:
    """What a value may be, one by one: without the bounds, and without what a missing key is."""
    if get_origin(wanted) is Annotated:
        yield from kinds_of(get_args(wanted)[0])
    elif get_origin(wanted) in (Union, types.UnionType):
        for kind in get_args(wanted):
            yield from kinds_of(kind)
    elif wanted is not UnsetType:
        yield wanted


# ---- Words -----------------------------------------------------------------------------------------------------------


def words(wanted: Any) -> str:
    """What a value may be, for people."""
    *others, last = _words(wanted, [])
    return f'{", ".join(others)} or {last}' if others else last


def _words(wanted: Any, metas: list[Meta]) -> list[str]:
    if get_origin(wanted) is Annotated:
        kind, *more = get_args(wanted)
        return _words(kind, [*metas, *(meta for meta in more if isinstance(meta, Meta))])
    if get_origin(wanted) in (Union, types.UnionType):
        kinds = sorted(
            (kind for kind in get_args(wanted) if kind is not UnsetType), key=lambda kind: kind is type(None)
        )
        return [word for kind in kinds for word in _words(kind, metas)]
    if get_origin(wanted) is Literal:
        return [f'`{each}`' for each in get_args(wanted)]
    if get_origin(wanted) is list:
        length = next((meta.min_length for meta in metas if meta.min_length), None)
        items = ' or '.join(word.removeprefix('a ') for word in _words(get_args(wanted)[0], []))
        many = re.sub(r'(number|mapping)', r'\1s', items)
        return [f'a list of {"" if length is None else f"{length} "}{many}']
    if wanted is bool:
        return ['true', 'false']
    if wanted is type(None):
        return ['nothing']
    if wanted is str:
        return ['text']
    if wanted in (int, float):
        return [f'a {"whole number" if wanted is int else "number"}{_bounds(metas)}']
    return ['a mapping of keys to values']


def _bounds(metas: list[Meta]) -> str:
    bounds = ''
    for word, name in (('from', 'ge'), ('above', 'gt'), ('to', 'le'), ('below', 'lt')):
        bounds += ''.join(f' {word} {getattr(meta, name):,}' for meta in metas if getattr(meta, name) is not None)
    return bounds
