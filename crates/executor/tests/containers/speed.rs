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
            let mut container = bench.executor.start(spec, ProcessIo::default()).await.unwrap();
            let started = start.elapsed();
            assert_eq!(container.wait().await.unwrap().code, 0);
            times.push((start.elapsed(), started));
        }
        times.sort();
        times[times.len() / 2]
    };
    println!("    as they come {:.2?} (of all, to the start)", measure(false, Network::Host).await);
    println!("    prepared {:.2?} (of all, to the start)", measure(true, Network::Host).await);
    println!(
        "    prepared, without network {:.2?} (of all, to the start)",
        measure(true, Network::None).await
    );
    assert!(measure(true, Network::Host).await.0 < Duration::from_millis(100));
}
