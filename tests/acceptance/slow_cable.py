"""Carries frames between two network devices, each some time after it came. Until it is killed.

python -m tests.acceptance.slow_cable DEVICE DEVICE SECONDS
"""

from __future__ import annotations

import select
import socket
import sys
import time
from collections import deque
from typing import Final

_ALL_PROTOCOLS: Final = 3
_SOL_PACKET: Final = 263
_VNET_HDR: Final = 15
"""Frames come and go with what the kernel left to the hardware: checksums, and the cutting of long ones."""

_FRAME_MAX_BYTES: Final = 1 << 17
_BUFFER_BYTES: Final = 1 << 24
_SO_RCVBUFFORCE: Final = 33


def main() -> None:
    first, second = (_end(name) for name in sys.argv[1:3])
    delay_s = float(sys.argv[3])
    other = {first: second, second: first}
    held: deque[tuple[float, socket.socket, bytes]] = deque()
    while True:
        wait_s = max(0.0, held[0][0] - time.monotonic()) if held else None
        for end in select.select([first, second], [], [], wait_s)[0]:
            frame, where = end.recvfrom(_FRAME_MAX_BYTES)
            if where[2] != socket.PACKET_OUTGOING:
                held.append((time.monotonic() + delay_s, other[end], frame))
        while held and held[0][0] <= time.monotonic():
            _, to, frame = held.popleft()
            to.send(frame)


def _end(name: str) -> socket.socket:
    end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL_PROTOCOLS))
    end.setsockopt(_SOL_PACKET, _VNET_HDR, 1)
    end.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
    end.bind((name, 0))
    return end


if __name__ == "__main__":
    main()
