"""Programs that people run on logbroker; thin, the code they use is in the packages."""
