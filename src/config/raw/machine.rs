//! `[runners.machine]`. The canonical spelling is PascalCase.

use crate::config::raw::reader::{At, section};

section! {
    /// `[runners.machine]`
    Machine {
        max_growth_rate as "MaxGrowthRate": i64,
        idle_count as "IdleCount": i64,
        idle_scale_factor as "IdleScaleFactor": f64,
        idle_count_min as "IdleCountMin": i64,
        idle_time as "IdleTime": i64,
        max_builds as "MaxBuilds": i64,
        machine_driver as "MachineDriver": String,
        machine_name as "MachineName": String,
        machine_options as "MachineOptions": Vec<At<String>>,
        machine_options_with_name as "MachineOptionsWithName": Vec<At<String>>,
        max_removal_attempts as "MaxRemovalAttempts": i64,
        autoscaling: Vec<At<MachineAutoscaling>>,
        /// Without effect in the reference since 14.0; still understood here, as the three below.
        off_peak_periods as "OffPeakPeriods": Vec<At<String>>,
        off_peak_timezone as "OffPeakTimezone": String,
        off_peak_idle_count as "OffPeakIdleCount": i64,
        off_peak_idle_time as "OffPeakIdleTime": i64,
    }
}

section! {
    /// One `[[runners.machine.autoscaling]]`.
    MachineAutoscaling {
        periods as "Periods": Vec<At<String>>,
        timezone as "Timezone": String,
        idle_count as "IdleCount": i64,
        idle_scale_factor as "IdleScaleFactor": f64,
        idle_count_min as "IdleCountMin": i64,
        idle_time as "IdleTime": i64,
    }
}
