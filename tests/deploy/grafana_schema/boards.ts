// Which of Grafana's own types our boards are checked against. schema.json was made of them, once, by
//   npm install @grafana/schema@13.2.3 ts-json-schema-generator@2.10.0      (Apache-2.0; MIT)
//   npx ts-json-schema-generator --path boards.ts --tsconfig tsconfig.json --type Boards \
//       --no-type-check --jsDoc none --expose none --minify -o schema.json
// with tsconfig.json {"compilerOptions": {"strict": true, "moduleResolution": "node", "module": "esnext"}, "files": ["boards.ts"]}
import type { Dashboard } from '@grafana/schema/dist/types/veneer/dashboard.types';
import type * as heatmap from '@grafana/schema/dist/types/raw/composable/heatmap/panelcfg/x/types.gen';
import type * as stat from '@grafana/schema/dist/types/raw/composable/stat/panelcfg/x/types.gen';
import type * as statushistory from '@grafana/schema/dist/types/raw/composable/statushistory/panelcfg/x/types.gen';
import type * as timeseries from '@grafana/schema/dist/types/raw/composable/timeseries/panelcfg/x/types.gen';

interface Panel<Options, Custom> {
  options: Partial<Options>;
  custom: Partial<Custom>;
}
export interface Boards {
  board: Dashboard;
  heatmap: Panel<heatmap.Options, heatmap.FieldConfig>;
  stat: Panel<stat.Options, {}>;
  'status-history': Panel<statushistory.Options, statushistory.FieldConfig>;
  timeseries: Panel<timeseries.Options, timeseries.FieldConfig>;
}
