"""Who hands out bytes: each module replays or places the buffers of a `MemoryProgram` as one runtime would."""
