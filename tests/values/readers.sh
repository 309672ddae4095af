# Reads `.env` documents with this shell.
#
# usage: sh readers.sh DIRECTORY
#
# Writes the environment after `DIRECTORY/NAME.env` to `DIRECTORY/NAME.out`, with a NUL after each variable. Run it
# without PATH, so that no document can start a program.

cd "$1" || exit 1
for document in *.env; do
    (
        set -a
        . "./$document" </dev/null >/dev/null 2>&1
        set +a
        /usr/bin/env -0
    ) >"${document%.env}.out" 2>/dev/null
done
exit 0
