"""Programs that use logbroker as an application would."""
