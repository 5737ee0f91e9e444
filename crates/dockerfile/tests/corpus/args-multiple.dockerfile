FROM busybox
ARG A=1 B C="d e" F=${A}x
RUN echo $A $B $C $F
ARG A
ARG B=2
RUN x
