//! Every entry point of the simulated driver as C functions, one for each slot: the only unsafe way in.
//!
//! They are generated from the table of `cuda-green-sys`. For each of its lines, [`Driver`] must have a method of
//! that name, or this does not compile; functions that are not modelled are in `not_modelled.rs`.

use std::ffi::{CStr, c_char, c_int, c_uint, c_ulonglong, c_void};

use cuda_green_sys::*;

use crate::{
    c_args::Arg,
    c_slots::{self, MAX_DRIVERS},
    driver::Driver,
};

/// Makes an array of the functions of all slots.
macro_rules! one_for_each_slot {
    ($name:ident, $ty:ty) => {{
        const FUNCTIONS: [$ty; MAX_DRIVERS] = one_for_each_slot!(
            @list $name: 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31
        );
        FUNCTIONS
    }};
    (@list $name:ident: $($slot:literal)+) => { [$(by_slot::$name::<$slot>),+] };
}

macro_rules! entry_points {
    ($(
        $(#[$doc:meta])+
        $name:ident($($arg:ident: $ty:ty),* $(,)?), since $since:tt;
    )+) => {
        /// The calls, once for all slots.
        #[allow(clippy::too_many_arguments)]
        mod in_slot {
            use super::*;
            $(
                /// # Safety
                /// The rules of the driver's function of this name.
                pub(super) unsafe fn $name(slot: usize, $($arg: $ty),*) -> CUresult {
                    c_slots::call(slot, stringify!($name), &mut |driver: &Driver| {
                        // SAFETY: the caller keeps the rules of the driver's function, which are the
                        // promise that `lift` asks for.
                        $(let $arg = unsafe { $arg.lift() };)*
                        driver.$name($($arg),*)
                    })
                }
            )+
        }

        /// The C functions. They only add the slot's number, so that each stays a few instructions.
        #[allow(clippy::too_many_arguments)]
        mod by_slot {
            use super::*;
            $(
                /// # Safety
                /// The rules of the driver's function of this name.
                pub(super) unsafe extern "C" fn $name<const SLOT: usize>($($arg: $ty),*) -> CUresult {
                    // SAFETY: the same rules.
                    unsafe { in_slot::$name(SLOT, $($arg),*) }
                }
            )+
        }

        /// Returns the address of an entry point's C function for a slot, by its exported symbol.
        pub(crate) fn address(symbol: &CStr, slot: usize) -> Option<*const c_void> {
            match symbol.to_str().ok()? {
                $(stringify!($name) => {
                    let functions = one_for_each_slot!($name, unsafe extern "C" fn($($ty),*) -> CUresult);
                    functions.get(slot).map(|function| *function as *const c_void)
                })+
                _ => None,
            }
        }
    };
}

cuda_green_sys::each_entry_point!(entry_points);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::not_modelled::NOT_MODELLED;

    #[test]
    fn what_is_not_modelled_is_in_the_table() {
        for name in NOT_MODELLED {
            assert!(
                ENTRY_POINTS.iter().any(|entry| entry.name() == *name),
                "{name}"
            );
        }
    }

    #[test]
    fn every_slot_has_a_function_of_its_own() {
        for entry in ENTRY_POINTS {
            let addresses: std::collections::BTreeSet<_> = (0..MAX_DRIVERS)
                .map(|slot| address(entry.symbol, slot).unwrap())
                .collect();
            assert_eq!(addresses.len(), MAX_DRIVERS, "{}", entry.name());
            assert!(address(entry.symbol, MAX_DRIVERS).is_none());
        }
    }
}
