FROM busybox
ARG P=/usr/local/lib/x.tar.gz
ENV A=${P#*/} B=${P##*/} C=${P%.*} D=${P%%.*} E=${P/l*l/-} F=${P//[aeiou]/_} G=${P#\/} H=${P/\//-}
