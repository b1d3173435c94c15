"""What scores prove. Pure: the same functions judge an evaluation, a promotion's gate, a canary and the
benchmark."""

from .canary import Stream
from .compare import judge
from .flakiness import Stability, stability
from .resampling import Resampled

__all__ = ["Resampled", "Stability", "Stream", "judge", "stability"]
