//! Dockerfiles and what they become.

/// A Dockerfile, options, and the digests of the results, a platform each.
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) dockerfile: &'static str,
    pub(super) attrs: &'static [(&'static str, &'static str)],
    pub(super) roots: &'static [&'static str],
}

pub(super) const METADATA: &str = "FROM busybox
MAINTAINER me
LABEL a=1 b=\"two words\"
ENV PATH=/x:$PATH NEW=n
EXPOSE 53/udp 8000-8001
VOLUME /data /logs
USER me:us
WORKDIR sub
STOPSIGNAL SIGINT
SHELL [\"bash\", \"-c\"]
HEALTHCHECK --interval=1m30s --retries=2 CMD curl -f \"localhost\"
ONBUILD RUN later
ENTRYPOINT [\"prog\"]
CMD serve \"all\" > log
";

pub(super) const METADATA_IMAGE: &str = r#"{"author":"me","architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]},"history":[{"created_by":"base"},{"created_by":"MAINTAINER me","comment":"buildkit.dockerfile.v0","empty_layer":true},{"created_by":"LABEL a=1 b=two words","comment":"buildkit.dockerfile.v0","empty_layer":true},{"created_by":"ENV PATH=/x:/bin NEW=n","comment":"buildkit.dockerfile.v0","empty_layer":true},{"created_by":"EXPOSE [53/udp 8000/tcp 8001/tcp]","comment":"buildkit.dockerfile.v0","empty_layer":true},{"created_by":"VOLUME [/data /logs]","comment":"buildkit.dockerfile.v0","empty_layer":true},{"created_by":"USER me:us","comment":"buildkit.dockerfile.v0","empty_layer":true},{"created_by":"WORKDIR /srv/sub","comment":"buildkit.dockerfile.v0"},{"created_by":"STOPSIGNAL SIGINT","comment":"buildkit.dockerfile.v0","empty_layer":true},{"created_by":"SHELL [bash -c]","comment":"buildkit.dockerfile.v0","empty_layer":true},{"created_by":"HEALTHCHECK {Test:[CMD-SHELL curl -f \"localhost\"] Interval:1m30s Timeout:0s StartPeriod:0s StartInterval:0s Retries:2}","comment":"buildkit.dockerfile.v0","empty_layer":true},{"created_by":"ENTRYPOINT [\"prog\"]","comment":"buildkit.dockerfile.v0","empty_layer":true},{"created_by":"CMD [\"bash\" \"-c\" \"serve \\\"all\\\" \u003e log\"]","comment":"buildkit.dockerfile.v0","empty_layer":true}],"config":{"User":"me:us","ExposedPorts":{"53/udp":{},"80/tcp":{},"8000/tcp":{},"8001/tcp":{}},"Env":["PATH=/x:/bin","BASE=yes","NEW=n"],"Entrypoint":["prog"],"Cmd":["bash","-c","serve \"all\" \u003e log"],"Volumes":{"/data":{},"/logs":{}},"WorkingDir":"/srv/sub","Labels":{"a":"1","b":"two words","from":"base","given":"1"},"StopSignal":"SIGINT","ArgsEscaped":true,"Healthcheck":{"Test":["CMD-SHELL","curl -f \"localhost\""],"Interval":90000000000,"Retries":2},"OnBuild":["RUN later"],"Shell":["bash","-c"]}}"#;

pub(super) const CASES: &[Case] = &[
    Case { name: "hello", dockerfile: "FROM busybox\nRUN echo hello > /hello && cat /hello\nCMD [\"cat\"]\n", attrs: &[], roots: &["sha256:02793c6e6f17b5c928e44521db78108483d42860da96cab0b903094514d68d33"] },
    Case {
        name: "stages",
        dockerfile: "ARG BASE=busybox
FROM ${BASE}:1.36 AS base
ENV A=1
FROM base AS unused
RUN false
FROM base AS build
ARG V=2
WORKDIR /src
COPY . .
RUN make V=$V
FROM scratch
COPY --from=build /src/out /out
COPY --from=0 /etc/passwd /etc/
COPY --from=alpine:3 /bin/sh /bin/
USER nobody
",
        attrs: &[("build-arg:V", "3")],
        roots: &["sha256:8ff067c6b87588cc773151ba24288b975d0bdc0f8d5522467fe9db2fb2964647"],
    },
    Case {
        name: "copies",
        dockerfile: "FROM busybox
COPY a b* dir/ /to/
COPY --chown=me:3 --chmod=0640 a ./b
COPY --chmod=u+x,go= a b
COPY --link a /linked/
COPY --link --chown=1:2 . /linked
COPY --parents x/./y/*.c z/w /p/
COPY --exclude=*.o --exclude=tmp src /src
COPY <<one <<\"two\" /inline/
$BASE
one
$BASE
two
ADD a.tar /unpacked/
ADD --unpack=false b.tar /kept/
",
        attrs: &[],
        roots: &["sha256:31bf56e4861fb455dd122792dabf19c0c1444a4843fdc4829b328783716943a4"],
    },
    Case {
        name: "remote adds",
        dockerfile: "FROM scratch
ADD https://example.com/dir/file.tgz?x=1 /a
ADD --unpack --chmod=644 --checksum=sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 http://example.com/ /b/
ADD https://example.com/repo.git#v1:sub /c
ADD --keep-git-dir=true --checksum=0123456789abcdef0123456789abcdef01234567 https://example.com/repo.git?branch=main&submodules=false /d
ADD git@example.com:me/repo.git /e
",
        attrs: &[],
        roots: &["sha256:1c012f072b6c0c10bddc58e16d0d92787b297e1b70b4180758b938073d307b87"],
    },
    Case {
        name: "runs",
        dockerfile: "FROM busybox AS other
FROM busybox
RUN --network=none [\"exec\", \"form $BASE\"]
RUN --security=insecure --network=host shell form
RUN --mount=target=/src --mount=type=bind,from=other,source=/a,target=rel,rw x
RUN --mount=type=cache,target=/c --mount=type=cache,id=i,target=/d/,sharing=locked,uid=1,mode=0700 --mount=type=tmpfs,target=/t,size=1m x
RUN --mount=type=secret,id=s --mount=type=secret,src=f,dst=/f,mode=0444 --mount=type=secret,id=e,env=E,required x $E
RUN --mount=type=ssh --mount=type=ssh,id=k,target=/k,uid=3,required x
RUN <<EOF
echo one
echo two
EOF
RUN <<-EOF
\t#!/usr/bin/env python
\tprint()
EOF
RUN cat <<A <<B
a
A
b
B
",
        attrs: &[],
        roots: &["sha256:f9406889671ab1c4aa7a2db0ba7a894f33a789c98022616bcc5054e2dafa16cd"],
    },
    Case { name: "metadata", dockerfile: METADATA, attrs: &[], roots: &["sha256:24be8b9376d4bd6c38113a63b26d62254370934c1126b007fe2399a2b1f3ba9e"] },
    Case {
        name: "windows",
        dockerfile: "# escape=`
FROM mcr.microsoft.com/windows/nanoserver:ltsc2022
WORKDIR C:\\app\\bin
COPY a.txt C:\\first\\
COPY dir\\b.txt .\\sub\\
RUN dir `
    C:\\
ENV X=1
USER ContainerAdministrator
CMD run.exe
",
        attrs: &[("platform", "windows/amd64")],
        roots: &["sha256:a5bde4cc1b308d6122699e6e51921ff5eff7c2aab78a145c5f3f7601bd596d4c"],
    },
    Case {
        name: "triggers",
        dockerfile: "FROM busybox AS base
ONBUILD COPY --from=alpine /x /y
ONBUILD RUN trigger $BASE
FROM base
RUN own
",
        attrs: &[],
        roots: &["sha256:01cf0b6527f4119e3ca60e183d3bfbef168db9dba35082fed04d83829e5eb7ab"],
    },
    Case {
        name: "platforms",
        dockerfile: "FROM --platform=$BUILDPLATFORM busybox AS build
ARG TARGETPLATFORM TARGETARCH
RUN build $TARGETARCH
FROM busybox
ARG TARGETVARIANT
COPY --from=build /out /
RUN x
",
        attrs: &[("platform", "linux/amd64,linux/arm64,linux/arm/v6")],
        roots: &["sha256:8eefc8a3920c2e47a66abbe89aac490b1bba4eb3d7bdb41f40073eff1a14ef3e", "sha256:7d464dfe306fc200d2fec0826ee6b806da25fe329a2d4fd609227d10a60196f6", "sha256:a75744535072661f325998835d18220ac5f085bf5aa4082bba3a407d2fc62af5"],
    },
    Case {
        name: "named contexts",
        dockerfile: "FROM base AS one
RUN a
FROM replaced AS two
RUN never
FROM one
COPY --from=two /x /
COPY --from=repo /y /
RUN --mount=from=files,target=/f z
",
        attrs: &[
            ("context:base", "docker-image://alpine:3.20"),
            ("context:two", "docker-image://busybox"),
            ("context:repo", "https://example.com/r.git#main"),
            ("context:files", "local:files"),
            ("sharedkey:localdir:files", "key"),
        ],
        roots: &["sha256:7b6f0eae666ded6c8cd0394378968fedcc67d45035916790196ea9b84abf6cc4"],
    },
    Case {
        name: "options",
        dockerfile: "FROM busybox AS first
RUN a
FROM first
COPY x /
RUN b
WORKDIR /w
",
        attrs: &[
            ("no-cache", "first"),
            ("add-hosts", "h=10.1.2.3"),
            ("ulimit", "nofile=10:20"),
            ("shm-size", "1048576"),
            ("cgroup-parent", "cg"),
            ("hostname", "box"),
            ("force-network-mode", "host"),
            ("image-resolve-mode", "pull"),
            ("build-arg:https_proxy", "proxy"),
            ("build-arg:BUILDKIT_CACHE_MOUNT_NS", "ns"),
            ("build-arg:SOURCE_DATE_EPOCH", "1700000000"),
            ("local-sessionid:context", "another"),
        ],
        roots: &["sha256:af0903eba4e2b8cbd948cde1e6c10418ea576c5aad0e5cfec1c36f7627eb2fe8"],
    },
    Case {
        name: "git context",
        dockerfile: "FROM scratch\nCOPY a /\n",
        attrs: &[("context", "https://example.com/r.git#main:sub"), ("build-arg:BUILDKIT_CONTEXT_KEEP_GIT_DIR", "1")],
        roots: &["sha256:86b25cd1a1325370937bb392bb8b5af3c52d500abfaf1052a2a6c53fff6c03f6"],
    },
];
