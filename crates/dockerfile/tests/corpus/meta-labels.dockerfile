FROM app
LABEL a=2 b="multi \
 line"
LABEL c d e
LABEL $x=1
