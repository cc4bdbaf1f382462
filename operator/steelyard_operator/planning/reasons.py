"""Reasons of conditions: one CamelCase word each, with the situation it stands for."""

# Ready, PrefillReady, DecodeReady, RouterReady
SERVING = "Serving"  # everything that was asked for takes requests
DEGRADED = "Degraded"  # requests are served, with fewer workers than asked for
STARTING = "Starting"  # workers are made or load the model
NO_WORKER = "NoReadyWorker"  # no worker of the role takes requests
NONE_WANTED = "NoneWanted"  # the role has 0 workers by request
ROUTER_DOWN = "NoReadyRouter"

# Reconciling and Stalled
DONE = "UpToDate"
PROGRESSING = "Progressing"
ROLLING_OUT = "RollingOut"
DRAINING = "Draining"
REBALANCING = "Rebalancing"
UNSCHEDULABLE = "Unschedulable"
QUOTA = "RefusedByApiServer"
IMAGE_PULL = "ImagePullFailed"
CRASH_LOOP = "CrashLooping"
FOREIGN = "ForeignObject"
SUSPENDED = "Suspended"
PAUSED = "RolloutPaused"
NOT_SUPPORTED = "NotSupported"
NOT_VALID = "NotValid"
DEADLINE = "ProgressDeadlineExceeded"
TOO_SMALL = "CapacityTooSmall"
DELETING = "Deleting"
QUEUED = "Queued"  # its next pods wait for others of the namespace to become ready
INTERNAL = "InternalError"  # of the operator; it is tried again

# ModelReady
LOADED = "Loaded"
LOADING = "Loading"

# WithinObjectives and WithinCost
NOT_MEASURED = "NotMeasured"  # nothing was served lately
NO_OBJECTIVES = "NoObjectives"
NO_CEILING = "NoCeiling"
KEPT = "Kept"
TOO_SLOW = "TooSlow"
OVER_CEILING = "OverCeiling"

# SpeculationActive
NOT_ASKED = "NotAskedFor"
