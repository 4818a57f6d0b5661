/* A map that is pinned under PIN_DIR (a string, given when compiling), and outlives who made it. */
#pragma once

#define PINNED(type, key, value, name, size, flags) BPF_TABLE_PINNED(type, key, value, name, size, PIN_DIR "/" #name, flags)
