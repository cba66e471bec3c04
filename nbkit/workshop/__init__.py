"""What serves the notebooks and is no part of the method: presets, exercises, and checks of saved figures."""

from nbkit.workshop import exercises, figures, presets

__all__ = ["exercises", "figures", "presets"]
