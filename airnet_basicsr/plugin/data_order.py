"""The order in which training draws its data, counted so that a resumed run goes on where it was."""


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
    """

    def __init__(self) -> None:
        self.epoch = self.drawn = 0
        self._resumed: tuple[int, int] | None = None

    def resume(self, epoch: int, drawn: int) -> None:
        """The first epoch goes on after ``drawn`` items."""
        self._resumed = epoch, drawn

    def begin(self, epoch: int) -> None:
        """A new epoch, or the resumed one's rest."""
        self.epoch = epoch
        self.drawn = self._resumed[1] if self._resumed is not None and self._resumed[0] == epoch else 0
        self._resumed = None


data_order = DataOrder()
