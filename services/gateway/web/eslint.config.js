import js from "@eslint/js";
import tseslint from "typescript-eslint";

export default tseslint.config(
  { ignores: ["dist/**", "node_modules/**"] },
  js.configs.recommended,
  {
    files: ["**/*.ts"],
    extends: [tseslint.configs.strictTypeChecked, tseslint.configs.stylisticTypeChecked],
    languageOptions: { parserOptions: { projectService: true } },
    rules: {
      "no-console": "error",
      eqeqeq: "error",
      "@typescript-eslint/no-confusing-void-expression": ["error", { ignoreArrowShorthand: true }],
      // Listeners may be async: they handle their own errors.
      "@typescript-eslint/no-misused-promises": ["error", { checksVoidReturn: { arguments: false } }],
      // Numbers in sentences for people need no conversion.
      "@typescript-eslint/restrict-template-expressions": ["error", { allowNumber: true }],
      // An empty title or remedy is as good as none.
      "@typescript-eslint/prefer-nullish-coalescing": "off",
      // JSON from the network may lack what its type promises.
      "@typescript-eslint/no-unnecessary-condition": "off",
      // The caller names what it expects of a JSON answer.
      "@typescript-eslint/no-unnecessary-type-parameters": "off",
    },
  },
  {
    files: ["scripts/**"],
    languageOptions: { globals: { console: "readonly", URL: "readonly" } },
  },
);
