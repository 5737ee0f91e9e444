//! What a confined step cannot do.

use std::sync::Arc;

use crate::support::Bench;

crate::tests![capabilities, kernel_files, devices, privileged_calls, other_words];

async fn capabilities(bench: Arc<Bench>) {
    let script = "grep -E 'Cap|NoNewPrivs|Seccomp:' /proc/self/status";
    let mut spec = bench.script(script);
    let root = bench.run(spec.clone()).await.out;
    assert_eq!(
        root,
        "CapInh:\t0000000000000000\nCapPrm:\t00000000a80425fb\nCapEff:\t00000000a80425fb\nCapBnd:\t00000000a80425fb\n\
         CapAmb:\t0000000000000000\nNoNewPrivs:\t0\nSeccomp:\t2\n"
    );
    spec.process.user = "app".to_owned();
    let user = bench.run(spec).await.out;
    assert_eq!(
        user,
        "CapInh:\t0000000000000000\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nCapBnd:\t00000000a80425fb\n\
         CapAmb:\t0000000000000000\nNoNewPrivs:\t0\nSeccomp:\t2\n"
    );
}

async fn kernel_files(bench: Arc<Bench>) {
    let out = bench
        .output(
            "t() { n=$1; shift; if \"$@\" > /dev/null 2>&1; then echo \"$n yes\"; fi; }
             t sysctl sh -c 'cat /proc/sys/kernel/panic > /proc/sys/kernel/panic'
             t sysrq sh -c 'echo > /proc/sysrq-trigger'
             t irq sh -c 'echo x > /proc/irq/x'
             t sys touch /sys/x
             t sysmkdir mkdir /sys/kernel/x
             t kcore sh -c 'test -s /proc/kcore && head -c1 /proc/kcore | grep -q .'
             t keys sh -c 'test -n \"$(cat /proc/keys)\"'
             t timers sh -c 'test -n \"$(cat /proc/timer_list)\"'
             t firmware sh -c 'test -n \"$(ls /sys/firmware)\"'
             t scsi sh -c 'test -n \"$(ls /proc/scsi 2>/dev/null)\"'
             t acpi sh -c 'test -n \"$(ls /proc/acpi 2>/dev/null)\"'
             true",
        )
        .await;
    assert_eq!(out, "");
}

async fn devices(bench: Arc<Bench>) {
    let out = bench.output("cd /dev; for f in *; do if [ -h $f ]; then readlink $f; elif [ -c $f ]; then stat -c '%n %a %t:%T' $f; else echo $f; fi; done; head -c4 zero | od -An -tx1; echo x > null; echo x > full || echo full").await;
    assert_eq!(
        out,
        "/proc/self/fd\nfull 666 1:7\nmqueue\nnull 666 1:3\npts/ptmx\npts\nrandom 666 1:8\nshm\n/proc/self/fd/2\n\
         /proc/self/fd/0\n/proc/self/fd/1\ntty 666 5:0\nurandom 666 1:9\nzero 666 1:5\n 00 00 00 00\nfull\n"
    );
    // Nodes can be made, anywhere, but only harmless ones opened.
    let out = bench
        .output("mknod /n c 1 3 && echo made && echo x > /n && echo null; mknod /dev/mem c 1 1 && (head -c1 /dev/mem >/dev/null 2>&1 || echo no memory); mknod /disk b 254 0 && (head -c1 /disk >/dev/null 2>&1 || echo no disk); mknod /tmp/k c 1 11 && (head -c1 /tmp/k >/dev/null 2>&1 || echo no log)")
        .await;
    let out = if crate::support::has_cgroups() { out } else { out.replace("made\n", "made\nnull\n") };
    assert_eq!(out, "made\nnull\nno memory\nno disk\nno log\n");
}

async fn privileged_calls(bench: Arc<Bench>) {
    let out = bench
        .output("touch /f && chown 5:6 /f && stat -c %u:%g /f; chroot / /bin/busybox true && echo chroot ok; mount -t proc proc /home 2>/dev/null || echo no mount; umount /proc 2>/dev/null || echo no umount; hostname other 2>/dev/null || echo no hostname; unshare -m true 2>/dev/null || echo no unshare; unshare -U true 2>/dev/null || echo no user namespace; mount -o remount,rw /sys 2>/dev/null || echo no remount; nsenter -t 1 -m true 2>/dev/null || echo no setns; dmesg >/dev/null 2>&1 || echo no log; swapoff -a 2>/dev/null; pivot_root / /tmp 2>/dev/null || echo no pivot")
        .await;
    assert_eq!(
        out,
        "5:6\nchroot ok\nno mount\nno umount\nno hostname\nno unshare\nno user namespace\nno remount\nno setns\nno log\nno pivot\n"
    );
}

async fn other_words(bench: Arc<Bench>) {
    // The daemon's keyrings and signal settings are not inherited.
    let out = bench.output("grep -E 'SigIgn|SigBlk' /proc/self/status | tr -d '\\t'").await;
    assert_eq!(out, "SigBlk:0000000000000000\nSigIgn:0000000000000000\n");
}
