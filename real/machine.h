// How this process uses the machine that it trains on.
#pragma once

namespace reckon::real {

// Large blocks of memory are kept for the next op instead of being returned to the system, whose
// page faults would cost as much as the ops. Once per process.
void keep_memory();

// Binds the calling thread, and the threads that it starts from now on, to a core of its own, where
// there are as many cores as ranks: woken threads would else meet on one core while another is
// idle. Does nothing for a rank alone, or where ranks are more than cores.
void stay_on_core(int rank, int ranks);

}  // namespace reckon::real
