FROM busybox
ARG A=abcabc
ARG E=
ENV O1=${A:-x} O2=${E:-x} O3=${U:-x} O4=${E-x} O5=${U-x} O6=${A:+y} O7=${E:+y} O8=${E+y} O9=${U+y}
ENV P1=${A#ab} P2=${A##*b} P3=${A%bc} P4=${A%%b*} P5=${A/b/X} P6=${A//b/X} P7=${A/q/X} P8=${A//b/}
RUN echo $O1 ${P1}
