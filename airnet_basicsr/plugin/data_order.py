"""The order in which training draws its data, counted so that a resumed run continues where it was."""

from collections.abc import Callable


class Draw(int):
    """A dataset index that knows the epoch and its place there, so that randomness can depend on those alone.

    Attributes:
        epoch: The sampler's epoch.
        position: Place in the epoch's order over all processes.
        ordinal: Place among the draws of this process.
    """

    epoch: int
    position: int
    ordinal: int


class DataOrder:
    """How far this process's training has come in the sampler's order; there is one: :data:`data_order`.

    Attributes:
        epoch: The sampler's epoch.
        drawn: Items of this epoch that training has used.
        iteration: Of the training state that this run resumes from; 0 without one.
    """

    def __init__(self) -> None:
        self.start_anew()

    def start_anew(self) -> None:
        """Forget an earlier run of this process."""
        self.epoch = self.drawn = self.iteration = 0
        self._resumed: tuple[int, int] | None = None
        self._restore: Callable[[], None] | None = None

    def resume(self, epoch: int, drawn: int, iteration: int) -> None:
        """The first epoch continues after ``drawn`` items."""
        self._resumed, self.iteration = (epoch, drawn), iteration

    @property
    def start(self) -> tuple[int, int]:
        """Epoch and items of it that are done when the run begins."""
        return self._resumed or (0, 0)

    def restore_random_state(self, restore: Callable[[], None]) -> None:
        """Call ``restore`` where the interrupted run would be after its last iteration.

        That is before the next iteration uses its batch or, where an epoch had ended, before the next epoch begins:
        data loaders draw from the random state when they start, and this run starts one more of them.
        """
        self._restore = restore

    def begin(self, epoch: int) -> None:
        """A new epoch, or the resumed one's rest."""
        first, drawn = self._resumed or (None, 0)
        if epoch != first:
            self._restore_now()
        self.epoch = epoch
        self.drawn = drawn if epoch == first else 0
        self._resumed = None

    def use(self, items: int) -> None:
        """An iteration begins that uses ``items`` of this epoch."""
        self._restore_now()
        self.drawn += items

    def _restore_now(self) -> None:
        if self._restore is not None:
            self._restore()
            self._restore = None


data_order = DataOrder()
