"""Stop strings in a stream of text: found across the pieces, and never shown in part."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

__all__ = ["StopStrings"]


class StopStrings:
    """Watches a stream of text for the first of several stop strings.

        stops = StopStrings(["</s>", "User:"])
        for piece in pieces:
            print(stops.push(piece), end="")
            if stops.matched is not None:
                break
        else:
            print(stops.finish(), end="")

    Only the tail that could still become a stop string is withheld. The stop that is complete first wins, of several that end
    at one character the longest; how the text is cut into pieces makes no difference. An automaton after Aho and Corasick 1975:
    constant time per character. `matched` is the stop string that was found, or None.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        """Raises TypeError when `stops` is no sequence of strings, ValueError for an empty one among them."""
        if isinstance(stops, str) or not all(isinstance(stop, str) for stop in stops):
            raise TypeError(f"stops must be a sequence of strings, not {stops!r:.80}")
        if "" in stops:
            raise ValueError("an empty stop string would stop every text at once")
        self.matched: str | None = None
        self._held = ""
        self._state = 0
        # per state: next states by character, the state of the longest proper suffix, length of the prefix, the stop that ends
        # here
        self._next: list[dict[str, int]] = [{}]
        self._suffix = [0]
        self._depth = [0]
        self._stop: list[str | None] = [None]
        for stop in stops:
            self._add(stop)
        self._link()

    def _add(self, stop: str) -> None:
        state = 0
        for character in stop:
            if character not in self._next[state]:
                self._next[state][character] = len(self._next)
                self._next.append({})
                self._suffix.append(0)
                self._depth.append(self._depth[state] + 1)
                self._stop.append(None)
            state = self._next[state][character]
        self._stop[state] = stop

    def _link(self) -> None:
        waiting = deque(self._next[0].values())
        while waiting:
            state = waiting.popleft()
            if self._stop[state] is None:
                self._stop[state] = self._stop[self._suffix[state]]
            for character, child in self._next[state].items():
                self._suffix[child] = self._step(self._suffix[state], character)
                waiting.append(child)

    def _step(self, state: int, character: str) -> int:
        while state and character not in self._next[state]:
            state = self._suffix[state]
        return self._next[state].get(character, 0)

    def push(self, text: str) -> str:
        """What is certain not to belong to a stop string, of what was withheld and of `text`; up to the stop, when there is
        one. After a match there is nothing more."""
        if self.matched is not None:
            return ""
        if len(self._next) == 1:
            return text
        for at, character in enumerate(text):
            self._state = self._step(self._state, character)
            self.matched = self._stop[self._state]
            if self.matched is not None:
                seen = self._held + text[: at + 1]
                self._held = ""
                return seen[: len(seen) - len(self.matched)]
        seen = self._held + text
        certain = len(seen) - self._depth[self._state]
        self._held = seen[certain:]
        return seen[:certain]

    def finish(self) -> str:
        """What was withheld, when the text ends without a stop."""
        held, self._held, self._state = self._held, "", 0
        return held
