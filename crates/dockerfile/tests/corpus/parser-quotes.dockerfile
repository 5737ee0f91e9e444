FROM busybox
ENV A="a b" B='c $A' C=d\ e D="f\"g" E='h'"i"j
LABEL "x y"="z" 'p'=q
RUN echo "$A" '$B'
