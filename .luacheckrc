-- What Redis gives to a script, and nothing else: an assigned global would poison every later script.
std = {
    read_globals = {
        "KEYS", "ARGV", "redis", "cjson", "bit",
        "assert", "error", "ipairs", "math", "next", "pairs", "pcall", "require", "select", "string", "table",
        "tonumber", "tostring", "type", "unpack",
    },
}
max_line_length = 125
