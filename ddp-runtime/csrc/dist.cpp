// Process groups, collectives and the Reducer, as one unit. See UNITS in build.rs.
#include "guard.cpp"
#include "store.cpp"
#include "group.cpp"
#include "collectives.cpp"
#include "reducer.cpp"
#include "hook.cpp"
#include "backends.cpp"
