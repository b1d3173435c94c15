"""What scores prove. Pure: the same functions judge an evaluation, a promotion's gate, a canary and the
benchmark."""

from .canary import Canary, Watched
from .compare import judge
from .flakiness import Stability, stability
from .resampling import Resampled

__all__ = ["Canary", "Resampled", "Stability", "Watched", "judge", "stability"]
