"""Sets of integers, kept as sorted, disjoint, half-open intervals: which cells and jobs are done."""

__all__ = ["IntervalSet"]

from bisect import bisect_left, bisect_right


class IntervalSet:
    """A set of integers that changes by intervals ``[lo, hi)``; its length is how many integers it holds.

    Touching intervals melt into one, so work done in order takes the room of one interval.
    """

    __slots__ = ("_his", "_los", "_size")

    def __init__(self) -> None:
        self._los: list[int] = []
        self._his: list[int] = []
        self._size = 0

    def add(self, lo: int, hi: int) -> None:
        """Put in every integer of ``[lo, hi)``, in or not.

        Raises:
            ValueError: the interval is empty or upside down.
        """
        _check(lo, hi)
        # Those that overlap or touch [lo, hi) become one with it.
        first, last = bisect_left(self._his, lo), bisect_right(self._los, hi)
        if first < last:
            lo, hi = min(lo, self._los[first]), max(hi, self._his[last - 1])
            self._size -= sum(self._his[first:last]) - sum(self._los[first:last])
        self._los[first:last] = [lo]
        self._his[first:last] = [hi]
        self._size += hi - lo

    def remove(self, lo: int, hi: int) -> None:
        """Take out every integer of ``[lo, hi)``, in or not.

        Raises:
            ValueError: the interval is empty or upside down.
        """
        _check(lo, hi)
        first, last = bisect_right(self._his, lo), bisect_left(self._los, hi)
        if first >= last:
            return
        before, after = self._los[first], self._his[last - 1]
        self._size -= sum(self._his[first:last]) - sum(self._los[first:last])
        rest = [(a, b) for a, b in ((before, lo), (hi, after)) if a < b]
        self._los[first:last] = [a for a, _ in rest]
        self._his[first:last] = [b for _, b in rest]
        self._size += sum(b - a for a, b in rest)

    def overlaps(self, lo: int, hi: int) -> bool:
        """Whether any integer of ``[lo, hi)`` is in."""
        _check(lo, hi)
        first = bisect_right(self._his, lo)
        return first < len(self._los) and self._los[first] < hi

    def subtract_from(self, lo: int, hi: int) -> list[tuple[int, int]]:
        """Complement within ``[lo, hi)``: sorted, disjoint intervals."""
        _check(lo, hi)
        rest = []
        for index in range(bisect_right(self._his, lo), bisect_left(self._los, hi)):
            if lo < self._los[index]:
                rest.append((lo, self._los[index]))
            lo = self._his[index]
        if lo < hi:
            rest.append((lo, hi))
        return rest

    def intervals(self) -> tuple[tuple[int, int], ...]:
        """The set as sorted intervals that neither overlap nor touch."""
        return tuple(zip(self._los, self._his, strict=True))

    def copy(self) -> "IntervalSet":
        """The same set, to grow by itself."""
        other = IntervalSet()
        other._los, other._his, other._size = self._los.copy(), self._his.copy(), self._size
        return other

    def __len__(self) -> int:
        return self._size

    def __eq__(self, other: object) -> bool:
        return isinstance(other, IntervalSet) and self.intervals() == other.intervals()

    __hash__ = None  # type: ignore[assignment]  # it grows

    def __repr__(self) -> str:
        return f"IntervalSet({', '.join(f'[{lo}, {hi})' for lo, hi in self.intervals())})"


def _check(lo: int, hi: int) -> None:
    if lo >= hi:
        raise ValueError(f"the interval [{lo}, {hi}) is empty")
