#!/bin/sh
# Started by a double click: sh start.sh PYTHON LAUNCH.PY. Keeps the window open where something failed.
"$1" "$2" || { printf '\nPress Enter to close this window. '; read -r _; }
