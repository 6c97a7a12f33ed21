"""Names of files and folders that varfix writes next to results."""

from typing import Final

# Folder in a destination: the manifest, the lock, the journals of an object store.
STATE_FOLDER: Final = ".varfix"
# End of the name of the folder that holds a video's finished segments.
SEGMENTS_SUFFIX: Final = ".varfix"
