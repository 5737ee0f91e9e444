//! How long a step takes from start to end. Prints; fails only when it is absurd.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kiln_executor::{Executor as _, Network, ProcessIo, Security};

use crate::support::Bench;

crate::tests![start_to_exit];

async fn start_to_exit(bench: Arc<Bench>) {
    let measure = async |prepare: bool, network: Network| {
        let mut times = Vec::new();
        for _ in 0..60 {
            let mut spec = bench.spec(&["/bin/true"]);
            spec.network = network.clone();
            if prepare {
                bench.executor.prepare(Security::Sandbox);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            let start = Instant::now();
            let container = bench.executor.start(spec, ProcessIo::default()).await.unwrap();
            let started = start.elapsed();
            assert_eq!(container.wait().await.unwrap().code, 0);
            times.push((start.elapsed(), started));
        }
        times.sort();
        (times[0], times[times.len() / 2])
    };
    println!("    of all and to the start, medians:");
    println!("    as they come {:.2?}", measure(false, Network::Host).await.1);
    println!("    prepared, without network {:.2?}", measure(true, Network::None).await.1);
    let (best, median) = measure(true, Network::Host).await;
    println!("    prepared {median:.2?}");
    // The best: what else the machine has to do is none of our business.
    assert!(best.0 < Duration::from_millis(100), "{best:?}");
}
