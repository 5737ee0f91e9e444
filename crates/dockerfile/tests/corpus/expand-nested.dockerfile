FROM busybox
ARG A=1
ENV B=${A:-${C:-d}} C=${Z:-${Y:-"q r"}} D="${A}${A}" E=\$A F='$A' G="\$A"
ENV H=${A:+${B}x}
