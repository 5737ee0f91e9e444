//! Devices of the [Container Device Interface] (1.1.0): vendors describe in small files what a container needs to use their
//! devices, and whoever runs a container asks for them by name.
//!
//! ```text
//!   <folder>/*.json, *.yaml    one specification each: a kind, devices, and what each of them edits in a container
//!   vendor.com/class=name      a device
//!   vendor.com/class           a kind
//! ```
//!
//! [`Registry`] knows the folders and reads them into [`Devices`]; [`Devices::find`] chooses by what a step asks for, and
//! [`Devices::edits`] puts together what the chosen ones change. Nothing here looks at a device or at a container.
//!
//! The files are an administrator's, but programs of vendors write them: they are read with limits, and one that is
//! broken is a [`Problem`], not an error.
//!
//! [Container Device Interface]: https://github.com/cncf-tags/container-device-interface/blob/main/SPEC.md

mod check;
mod decode;
mod devices;
mod folder;
mod names;
mod node;
mod spec;
mod value;

pub use decode::{Error, parse};
pub use devices::{Devices, Listed, NotRegistered, Problem};
pub use folder::{MAX_FILE, Registry};
pub use spec::{ContainerEdits, Device, DeviceKind, DeviceNode, Hook, HookName, IntelRdt, Mount, Spec};
