ARG A=1
FROM busybox
ARG A
ARG B=2
ARG C
RUN echo $A $B $C
RUN echo again
