//! The devices that a served plan runs on: accelerators' lanes feed their streams, all others have threads.

use std::sync::Arc;

use tandem_core::scheduler::{LaneSpec, Setup};
use tandem_core::{Device, DeviceSpec};
use tandem_ir::Machine;

use super::works::Works;
use crate::device::cuda::streamed::Streamed;
use crate::device::threaded::{Clock, Threaded};

/// Devices with a lane for each queue of a setup that was made for this machine. A link's lane is its accelerator's.
///
/// # Errors
/// A thread cannot be started.
pub fn devices(
    setup: &Setup,
    machine: &Machine,
    works: &Arc<Works>,
    clock: Clock,
) -> std::io::Result<Vec<Box<dyn Device + Send>>> {
    let engine = |device: usize| {
        let mut said = (0..setup.routes.len()).map(|r| works.devices(r)[device].clone());
        said.find(|said| !said.is_empty()).unwrap_or_default()
    };
    let spec = |device: usize, lanes: Vec<String>| {
        let of = &machine.devices[device];
        DeviceSpec { name: of.name.clone(), kind: of.kind, lanes, memory: of.memory, engine: engine(device) }
    };
    let lanes = |mine: &dyn Fn(&LaneSpec) -> bool| -> Vec<String> {
        setup.queues().filter(|lane| mine(lane)).map(|lane| lane.name.clone()).collect()
    };
    let accelerators: Vec<_> = (0..machine.devices.len()).map(|device| works.accelerator(device)).collect();
    let mut devices: Vec<Box<dyn Device + Send>> = vec![];
    let on_threads = lanes(&|lane| accelerators[lane.device].is_none());
    let threads = on_threads.len();
    devices.push(Box::new(Threaded::start(spec(0, on_threads), works.clone(), clock, threads)?));
    for (device, accelerator) in accelerators.iter().enumerate() {
        if let Some(accelerator) = accelerator {
            let own = lanes(&|lane| lane.device == device);
            devices.push(Box::new(Streamed::start(spec(device, own), accelerator.clone(), works.clone(), clock)?));
        }
    }
    Ok(devices)
}
