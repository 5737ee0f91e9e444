FROM busybox
ENV A=1
ENV A=$A:2 B=$A
ENV PATH=/x:$PATH
RUN echo $A $B
