"""Live sessions: participants who come and go, their own predictions and the session's."""
