"""Study files shipped with sweeper, one TOML file a study."""
