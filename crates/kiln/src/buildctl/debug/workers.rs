//! `buildctl debug workers`.

use std::io::Write as _;

use clap::Args;
use kiln_client::{
    Error,
    units::{go_duration, short_size},
};
use kiln_proto::{
    control::ListWorkersRequest,
    types::{CdiDevice, GcPolicy, WorkerRecord},
};
use serde_json::Value;

use crate::{
    args,
    buildctl::{Global, format, print},
    table::Table,
    template,
};

/// List workers.
#[derive(Args)]
pub(crate) struct Workers {
    /// Containerd-style filter string slice.
    #[arg(short, long)]
    filter: Vec<String>,
    /// Verbose output.
    #[arg(short, long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", value_parser = args::switch)]
    verbose: bool,
    /// Format the output using the given Go template, e.g, '{{json .}}'.
    #[arg(long)]
    format: Option<String>,
}

impl Workers {
    pub(crate) async fn run(self, global: &Global) -> Result<(), Error> {
        let request = ListWorkersRequest { filter: self.filter };
        let response = global.control().await?.list_workers(request).await;
        let workers = response.map_err(Error::daemon("failed to list workers"))?.into_inner().record;
        if let Some(format) = self.format.filter(|f| !f.is_empty()) {
            let text = template::render(&format, &workers.iter().map(format::worker).collect::<Value>())?;
            return print(|out| writeln!(out, "{text}"));
        }
        let mut table = Table::new();
        if self.verbose {
            workers.iter().for_each(|worker| verbose(&mut table, worker));
        } else {
            table.row(["ID", "PLATFORMS"]);
            workers.iter().for_each(|w| table.row([&w.id, &format::platform_names(&w.platforms)]));
        }
        print(|out| table.write(out))
    }
}

fn verbose(table: &mut Table, worker: &WorkerRecord) {
    let version = worker.buildkit_version.clone().unwrap_or_default();
    table.row(["ID:", &worker.id]);
    table.row(["Platforms:", &format::platform_names(&worker.platforms)]);
    table.row(["BuildKit:", &format!("{} {} {}", version.package, version.version, version.revision)]);
    if !version.dockerfile_version.is_empty() {
        table.row(["Dockerfile:", &version.dockerfile_version]);
    }
    table.row(["Labels:"]);
    for (key, value) in &worker.labels {
        table.row(["", &format!("{key}:"), value]);
    }
    if !worker.cdi_devices.is_empty() {
        table.row(["Devices:"]);
        worker.cdi_devices.iter().for_each(|d| device(table, d));
        table.row([""]);
    }
    for (index, rule) in worker.gc_policy.iter().enumerate() {
        table.row([&format!("GC Policy rule#{index}:")]);
        policy(table, rule);
    }
    table.row([""]);
}

fn device(table: &mut Table, device: &CdiDevice) {
    table.row(["", "Name:", &device.name]);
    match device.on_demand {
        true => table.row(["", "OnDemand:", "true"]),
        false => table.row(["", "AutoAllow:", &device.auto_allow.to_string()]),
    }
    for (key, value) in &device.annotations {
        table.row(["", "Annotations:", &format!("{key}:"), value]);
    }
}

fn policy(table: &mut Table, rule: &GcPolicy) {
    table.row(["", "All:", &rule.all.to_string()]);
    if !rule.filters.is_empty() {
        table.row(["", "Filters:", &rule.filters.join(" ")]);
    }
    if rule.keep_duration > 0 {
        table.row(["", "Keep duration:", &go_duration(rule.keep_duration)]);
    }
    let spaces = [
        ("Reserved space:", rule.reserved_space),
        ("Minimum free space:", rule.min_free_space),
        ("Maximum used space:", rule.max_used_space),
    ];
    for (name, bytes) in spaces.into_iter().filter(|(_, bytes)| *bytes > 0) {
        table.row(["", name, &short_size(bytes)]);
    }
}
