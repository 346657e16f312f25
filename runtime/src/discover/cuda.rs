//! GPUs, asked of CUDA's driver in a way that cannot panic where it is absent.
//!
//! cudarc's functions panic when the library, or one function of it, cannot be loaded. So the library is looked for
//! first, and only functions that every driver since CUDA 4 has are called.

#![allow(unsafe_code)]

use std::ffi::c_int;
use std::panic::catch_unwind;
use std::path::Path;

use cudarc::driver::{result, sys};
use sys::CUdevice_attribute_enum as Attribute;
use tandem_ir::Bytes;

/// A GPU as CUDA's driver describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gpu {
    /// Its name.
    pub name: String,
    /// Its memory.
    pub memory: Bytes,
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Compute capability.
    pub capability: (u32, u32),
    /// Copies that can run beside kernels, one direction each.
    pub copy_engines: u32,
    /// Newest CUDA version that the driver supports: 13000 for 13.0.
    pub driver: u32,
    /// PCI address: `0000:3b:00.0`.
    pub pci_address: String,
    /// PCIe transfers a second and lane, and lanes, as the operating system says: (16.0e9, 16) for generation 4 x16.
    pub pcie: Option<(u64, u32)>,
}

/// Bytes a second of a PCIe connection that is not known: generation 3 with 16 lanes.
const PCIE_UNKNOWN: (u64, u32) = (8_000_000_000, 16);

impl Gpu {
    /// What copies from pinned memory usually reach: 80 % of the transfers, a bit each.
    pub(super) fn link_bytes_per_s(&self) -> u64 {
        let (transfers, lanes) = self.pcie.unwrap_or(PCIE_UNKNOWN);
        transfers / 8 * u64::from(lanes) / 10 * 8
    }

    pub(super) fn for_people(&self) -> Vec<(String, String)> {
        let pcie = match self.pcie {
            Some((transfers, lanes)) => format!("{:.1} GT/s x{lanes}", transfers as f64 / 1e9),
            None => "unknown".into(),
        };
        let facts = [
            ("compute capability", format!("{}.{}", self.capability.0, self.capability.1)),
            ("driver", format!("CUDA {}.{}", self.driver / 1000, self.driver % 1000 / 10)),
            ("copy engines", self.copy_engines.to_string()),
            ("pci", self.pci_address.clone()),
            ("pcie", pcie),
            ("link figures", "estimated from pcie, not measured".into()),
        ];
        facts.map(|(name, value)| (name.to_owned(), value)).to_vec()
    }
}

/// All GPUs.
///
/// # Errors
/// No driver, or one that cannot be started: why, in a sentence for people.
pub fn gpus() -> Result<Vec<Gpu>, String> {
    // SAFETY: loads and drops a library, whose initialisers run; CUDA's driver permits that at any time.
    if !unsafe { sys::is_culib_present() } {
        return Err("no CUDA driver (libcuda) on this machine".into());
    }
    // A damaged library lacks functions, and cudarc panics then: that too is an absent GPU, not the end of the process.
    catch_unwind(ask).unwrap_or_else(|_| Err("the CUDA driver's library lacks functions it should have".into()))
}

fn ask() -> Result<Vec<Gpu>, String> {
    let words = |error: result::DriverError| format!("the CUDA driver does not start: {:?}", error.0);
    result::init().map_err(words)?;
    let mut driver: c_int = 0;
    // SAFETY: writes one integer.
    unsafe { sys::cuDriverGetVersion(&mut driver) }.result().map_err(words)?;
    let count = result::device::get_count().map_err(words)?;
    (0..count).map(|ordinal| gpu(ordinal, driver as u32).map_err(words)).collect()
}

fn gpu(ordinal: c_int, driver: u32) -> Result<Gpu, result::DriverError> {
    let device = result::device::get(ordinal)?;
    let number = |attribute: Attribute| {
        // SAFETY: the device comes from `get` just above.
        unsafe { result::device::get_attribute(device, attribute) }.map(|n| u32::try_from(n).unwrap_or(0))
    };
    // SAFETY: as above.
    let memory = unsafe { result::device::total_mem(device) }?;
    let pci_address = format!(
        "{:04x}:{:02x}:{:02x}.0",
        number(Attribute::CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID)?,
        number(Attribute::CU_DEVICE_ATTRIBUTE_PCI_BUS_ID)?,
        number(Attribute::CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID)?,
    );
    Ok(Gpu {
        name: result::device::get_name(device)?,
        memory: Bytes(memory as u64),
        multiprocessors: number(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        capability: (
            number(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            number(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        copy_engines: number(Attribute::CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT)?,
        driver,
        pcie: pcie(&Path::new("/sys/bus/pci/devices").join(&pci_address)),
        pci_address,
    })
}

/// Speed and width of a PCI device's connection, at its best: an idle GPU has it slowed down.
pub(super) fn pcie(folder: &Path) -> Option<(u64, u32)> {
    let text = |name: &str| std::fs::read_to_string(folder.join(name)).ok();
    let (speed, width) = (text("max_link_speed")?, text("max_link_width")?);
    // "16.0 GT/s PCIe"
    let giga: f64 = speed.split_whitespace().next()?.parse().ok()?;
    let lanes: u32 = width.trim().parse().ok()?;
    (giga > 0.0 && giga < 1000.0 && (1..=32).contains(&lanes)).then_some(((giga * 1e9) as u64, lanes))
}
