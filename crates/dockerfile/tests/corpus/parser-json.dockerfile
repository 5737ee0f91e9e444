FROM busybox
RUN ["a", "b\u00e9", "c\"d"]
RUN [ "x" , "y" ] 
RUN ["not json
CMD ["a"]
