FROM busybox
ENV A=1 B="x y"
ENV C D E
RUN a
ENV A=2
RUN b
