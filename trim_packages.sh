#!/bin/sh
# Take out of installed packages what no worker runs: tests and headers. (Not the symbols of libraries: those whose paths
# pip's wheels have changed do not load any more when `strip` has been over them.)
#   trim_packages.sh DIRECTORY
set -eu
# Modules beside the tests of a folder stay: numpy imports one of them.
find "$1" -path '*/tests/*' \( -name 'test_*' -o -path '*/tests/data/*' \) -type f -delete
find "$1" -path '*/apache_beam/*' -name '*_test.*py*' -delete
find "$1" \( -name '*.h' -o -name '*.hpp' -o -name '*.pyx' -o -name '*.pxd' -o -name '*.a' \) -delete
