// Counts the 32-byte sectors that warp-level global memory instructions touch: what the memory
// system of a GPU is asked for.
//
// The lanes of a warp run one after another here, so a warp-level instruction is put together from
// its lanes: the k-th time that each of them comes to a PTX line. A lane whose predicate is false
// takes part without an access. Where lanes jump around a line different numbers of times,
// executions that a GPU would keep apart can be counted as one.
#pragma once
#include "block.h"

namespace ptx {

constexpr u64 SECTOR_BYTES = 32;

struct WarpInstruction {
  u32 lanes = 0;             // that have come to it
  std::vector<u64> sectors;  // distinct
};

// A PTX line as one warp executes it.
struct AccessSite {
  bool stores = false;
  u32 executions[WARP] = {};  // so far, per lane
  std::vector<WarpInstruction> instructions;
};

inline std::vector<AccessSite> access_sites[MAX_WARPS];  // by PTX line; of one block
inline u64 sites_block = ~0ull;

PTX_NO_TSAN inline void finish_instruction(const AccessSite& site, WarpInstruction& instruction) {
  u64& total = site.stores ? machine.result.sectors_stored : machine.result.sectors_loaded;
  total += instruction.sectors.size();
  instruction.sectors = {};
}

// At the end of a block or launch: instructions that some lanes never came to.
PTX_NO_TSAN inline void finish_sites() {
  for (std::vector<AccessSite>& sites : access_sites) {
    for (AccessSite& site : sites)
      for (WarpInstruction& instruction : site.instructions) finish_instruction(site, instruction);
    sites.clear();
  }
  sites_block = ~0ull;
}

PTX_NO_TSAN inline AccessSite& access_site(int line) {
  if (sites_block != running->number) finish_sites();
  sites_block = running->number;
  std::vector<AccessSite>& sites = access_sites[self().warp()];
  if (sites.size() <= (size_t)line) sites.resize(line + 1);
  return sites[line];
}

PTX_NO_TSAN inline void add_sector(std::vector<u64>& sectors, u64 sector) {
  for (u64 known : sectors)
    if (known == sector) return;
  sectors.push_back(sector);
}

// The lane comes to a line; an access lies in one sector as it is aligned to its size.
PTX_NO_TSAN inline void record_lane(AccessSite& site, bool accesses, u64 address) {
  Thread& t = self();
  u32 execution = site.executions[t.lane()]++;
  if (site.instructions.size() <= execution) site.instructions.resize(execution + 1);
  WarpInstruction& instruction = site.instructions[execution];
  if (accesses) add_sector(instruction.sectors, address / SECTOR_BYTES);
  instruction.lanes |= 1u << t.lane();
  if (instruction.lanes == existing_lanes(t.warp())) finish_instruction(site, instruction);
}

PTX_NO_TSAN inline void count_sector(u64 address, bool store, int line) {
  AccessSite& site = access_site(line);
  site.stores = store;
  record_lane(site, true, address);
}

// A global load or store whose predicate is false.
PTX_NO_TSAN inline void masked_access(int line) {
  if (machine.options.count_sectors) record_lane(access_site(line), false, 0);
}

}  // namespace ptx
