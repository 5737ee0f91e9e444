//! How long a step takes from start to end. Prints; fails only when it is absurd.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kiln_executor::{Executor as _, Network, Security};

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
            assert_eq!(bench.run(spec).await.exit.code, 0);
            times.push(start.elapsed());
        }
        times.sort();
        times[times.len() / 2]
    };
    println!("    as they come {:.2?}", measure(false, Network::Host).await);
    println!("    prepared {:.2?}", measure(true, Network::Host).await);
    println!("    prepared, without network {:.2?}", measure(true, Network::None).await);
    assert!(measure(true, Network::Host).await < Duration::from_millis(100));
}
